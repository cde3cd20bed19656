"""The methods of users' gRPC services, found by running the generated ``add_…_to_server``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor

from serving.names import servicer_function
from serving.v1.grpc_pb2 import GrpcMethod, GrpcServices

OPTION = "grpc_servicer_functions"

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
SERVING_API = "serving.v1.ServingAPI"
BUILT_IN = frozenset((HEALTH, REFLECTION, REFLECTION_V1, SERVING_API))
"""Services that proxies answer themselves."""


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of a user's service."""

    name: str
    """As it travels: "/package.Service/Method"."""
    request_streaming: bool
    response_streaming: bool
    deserialize: Callable[[bytes], Any]
    """Makes a request of bytes."""
    serialize: Callable[[Any], bytes]
    """Makes bytes of a response."""
    response: Descriptor | None = None
    """The type of a response, where protobuf knows it and it is protobuf that serializes it."""

    @property
    def service(self) -> str:
        """Its service: "package.Service"."""
        return self.name.split("/")[1]


def load(functions: Iterable[str]) -> dict[str, Method]:
    """The methods, by name, that the functions add to a server.

    ``functions`` are import paths, as "helloworld_pb2_grpc.add_GreeterServicer_to_server". Raises
    ValueError that names the one that cannot be imported, is no such function, or adds a method
    that another has added, or that of a service that is built in.
    """
    methods: dict[str, Method] = {}
    for path in functions:
        for method in _methods_of(path, _imported(path)):
            if method.service in BUILT_IN:
                raise ValueError(
                    f"{OPTION}: {path!r} adds {method.service}, which is built in: remove it"
                )
            if method.name in methods:
                raise ValueError(f"{OPTION}: {path!r} adds {method.name} a second time")
            methods[method.name] = method
    return methods


def describe(methods: Mapping[str, Method]) -> GrpcServices:
    """What a proxy needs to know of them. Services that protobuf does not know are called like
    others, and left out of reflection."""
    pool = descriptor_pool.Default()
    files: dict[str, bytes] = {}
    for service in {method.service: None for method in methods.values()}:
        try:
            descriptor = pool.FindServiceByName(service)
        except KeyError:
            continue
        for file in with_imports(descriptor.file):
            files.setdefault(file.name, file.serialized_pb)
    return GrpcServices(
        methods=[
            GrpcMethod(
                name=method.name,
                request_streaming=method.request_streaming,
                response_streaming=method.response_streaming,
            )
            for method in methods.values()
        ],
        files=list(files.values()),
    )


def with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """Each of the files that it imports, however far away, before those that import it; then the
    file itself."""
    for imported in file.dependencies:
        yield from with_imports(imported)
    yield file


class Recorder:
    """The side of a ``grpc.Server`` that generated code sees: notes what is added to it."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}
        """An RpcMethodHandler for each method, by the method's name."""

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:
            # The one that grpc.method_handlers_generic_handler makes, as all generated code does.
            self.handlers.update(handler._method_handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.handlers.update({f"/{service}/{name}": each for name, each in handlers.items()})


def _imported(path: str) -> Callable[[Any, Any], object]:
    try:
        module, name = servicer_function(path)
    except ValueError as error:
        raise ValueError(f"{OPTION}: {error}") from None
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ValueError(
            f"{OPTION}: {path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ValueError(f"{OPTION}: {path!r} is a {type(function).__name__}, and no function")
    return function  # type: ignore[no-any-return]


def _methods_of(path: str, function: Callable[[Any, Any], object]) -> Iterator[Method]:
    recorder = Recorder()
    try:
        function(_AnyServicer(), recorder)
    except Exception as error:
        raise ValueError(
            f"{OPTION}: {path!r} is no generated add_…Servicer_to_server function: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not recorder.handlers:
        raise ValueError(
            f"{OPTION}: {path!r} added no method: it is to be a generated "
            "add_…Servicer_to_server function"
        )
    for name, handler in recorder.handlers.items():
        yield Method(
            name,
            handler.request_streaming,
            handler.response_streaming,
            handler.request_deserializer or bytes,
            handler.response_serializer or bytes,
            _response_type(name, handler.response_serializer),
        )


def _response_type(name: str, serializer: object) -> Descriptor | None:
    # All messages share one function, which takes any of them.
    if getattr(serializer, "__name__", "") != "SerializeToString":
        return None
    service, _, method = name[1:].partition("/")
    try:
        described = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None
    found = described.methods_by_name.get(method)
    return found.output_type if found is not None else None


class _AnyServicer:
    """A servicer that has every method."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: None
