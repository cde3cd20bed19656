"""A gRPC service and its handler, for grpc_calls.py: the same class on a bare server and behind
the proxy.

Written by hand what grpcio-tools makes of a service, so that nothing need be generated; its
messages are protobuf's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from repeat import ITEMS

import serving

SERVICE = "benchmarks.Echo"


class Echo:
    """What is called: nothing here takes time of its own. A bare server gives a context, too."""

    async def Say(self, request: StringValue, context: Any = None) -> StringValue:
        return StringValue(value=request.value)

    async def Repeat(self, request: StringValue, context: Any = None) -> AsyncIterator[StringValue]:
        for _ in range(ITEMS):
            yield StringValue(value=request.value)


def add_EchoServicer_to_server(servicer: Any, server: Any) -> None:
    """As generated code does."""
    coding = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(servicer.Say, **coding),
        "Repeat": grpc.unary_stream_rpc_method_handler(servicer.Repeat, **coding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


app = serving.deployment(max_ongoing_requests=200)(Echo).bind()
