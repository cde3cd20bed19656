"""Serve Python classes and functions over HTTP, WebSocket and gRPC, with Ray Serve's API.

import serving as serve

@serve.deployment
class Greeter:
    def __call__(self, request):
        return "hello"

serve.run(Greeter.bind())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# These two names are modules as well as functions: imported first, the functions stay.
from serving.deployment import Application, Deployment, deployment
from serving.ingress import ingress

if TYPE_CHECKING:
    from serving.api import (
        delete,
        get_app_handle,
        get_deployment_handle,
        rollback,
        run,
        shutdown,
        start,
        status,
    )
    from serving.batching import batch
    from serving.config import AutoscalingConfig, HTTPOptions, LoggingConfig, gRPCOptions
    from serving.context import get_multiplexed_model_id, get_replica_context
    from serving.multiplex import multiplexed

__all__ = [
    "Application",
    "AutoscalingConfig",
    "Deployment",
    "HTTPOptions",
    "LoggingConfig",
    "batch",
    "delete",
    "deployment",
    "get_app_handle",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "gRPCOptions",
    "ingress",
    "multiplexed",
    "rollback",
    "run",
    "shutdown",
    "start",
    "status",
]

# Imported when first used: every process of a cluster imports this package, and few need these.
_LAZY = {
    "AutoscalingConfig": "serving.config",
    "HTTPOptions": "serving.config",
    "LoggingConfig": "serving.config",
    "batch": "serving.batching",
    "delete": "serving.api",
    "get_app_handle": "serving.api",
    "get_deployment_handle": "serving.api",
    "get_multiplexed_model_id": "serving.context",
    "get_replica_context": "serving.context",
    "gRPCOptions": "serving.config",
    "multiplexed": "serving.multiplex",
    "rollback": "serving.api",
    "run": "serving.api",
    "shutdown": "serving.api",
    "start": "serving.api",
    "status": "serving.api",
}


if not TYPE_CHECKING:  # a type checker would take every name for one of these

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
