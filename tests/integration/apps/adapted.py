"""Deployments behind HTTP adapters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

import serving
from serving.http_adapters import (
    image_to_ndarray,
    json_request,
    json_to_multi_ndarray,
    json_to_ndarray,
    pandas_read_json,
)


@serving.deployment(http_adapter=json_request)
def echo_json(value: Any) -> Any:
    return {"got": value}


@serving.deployment(http_adapter=json_to_ndarray)
class Doubles:
    def __call__(self, array: Any) -> dict[str, Any]:
        return {"doubled": array * 2, "dtype": str(array.dtype)}


@serving.deployment(http_adapter=json_to_multi_ndarray)
async def shapes(arrays: Any) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in arrays.items()}


@serving.deployment(http_adapter=pandas_read_json)
def sums(frame: Any) -> dict[str, Any]:
    return {name: column.sum() for name, column in frame.items()}


@serving.deployment(http_adapter=image_to_ndarray)
def describes(image: Any) -> list[int]:
    return list(image.shape)


# Adapters of one's own.


class Order(BaseModel):
    item: str
    count: int = 1


closed: list[str] = []


def connection() -> Iterator[str]:
    yield "connection"
    closed.append("connection")


def order_of_customer(
    order: Order,
    request: Request,
    response: Response,
    link: Annotated[str, Depends(connection)],
    discount: Annotated[float, Query(ge=0, le=1)] = 0,
    x_customer: Annotated[str, Header()] = "anyone",
) -> dict[str, Any]:
    if order.item == "secret":
        raise HTTPException(403, "not for sale")
    response.headers["x-adapted"] = request.url.path
    return {**order.model_dump(), "customer": x_customer, "discount": discount, "link": link}


@serving.deployment(http_adapter=order_of_customer)
class Orders:
    async def __call__(self, order: dict[str, Any]) -> dict[str, Any]:
        return {**order, "closed before": len(closed)}


@serving.deployment(http_adapter=Order)
def by_model(order: Order) -> Response:
    return JSONResponse({"ordered": order.count}, status_code=202)


async def shouted(request: Request) -> str:
    return (await request.body()).decode().upper()


@serving.deployment(http_adapter=shouted)
def streams_words(text: str) -> Iterator[str]:
    for word in text.split():
        yield f"{word};"


@serving.deployment(http_adapter=shouted)
def fails(text: str) -> None:
    raise ValueError(f"cannot serve {text}")
