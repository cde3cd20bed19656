"""HTTP adapters: a function of the request whose result is the handler's sole argument.

FastAPI reads the adapter's parameters, so whatever FastAPI understands works in an adapter, with
FastAPI's own 422s. Importing this module imports FastAPI: do so only for a deployment that has an
adapter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp

# Every method of RFC 9110 that reaches an origin server, and PATCH. FastAPI wants them by name.
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]

# Matches every path, the empty one behind a bare route prefix too. The name is one that no
# adapter's own parameter has: a `path: str` of theirs stays a query parameter.
_ANY_PATH = "{_serving_adapter_path:path}"


def adapted_app(
    adapter: Callable[..., Any], handler: Callable[[Any], Awaitable[Response]]
) -> ASGIApp:
    """Return an ASGI app that answers every path with `handler(value of adapter)`.

    `adapter` is a function, sync or async, or a pydantic model, which stands for "the body is one
    of these". What its dependencies yield is closed after the handler, when FastAPI closes it.
    Headers and a status that it sets on a `Response` parameter apply to the handler's response.
    """
    app = FastAPI(openapi_url=None)
    adapted = Depends(_dependency(adapter))

    async def answer(merged: Response, value: Any = adapted) -> Response:
        response = await handler(value)
        response.headers.raw.extend(merged.headers.raw)
        if merged.status_code:
            response.status_code = merged.status_code
        return response

    app.api_route(_ANY_PATH, methods=_METHODS)(answer)
    return app


def _dependency(adapter: Callable[..., Any]) -> Callable[..., Any]:
    if not (isinstance(adapter, type) and issubclass(adapter, BaseModel)):
        return adapter

    def body(value: Any) -> Any:
        return value

    body.__annotations__["value"] = adapter  # FastAPI would read a model's fields from the query
    return body
