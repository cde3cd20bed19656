"""What mypy knows with the plugin: each `assert_type` must hold. Nothing here runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, Generic, TypeVar, assert_type, overload

from fastapi import FastAPI

import serving
import serving.testing
from serving.deployment import Deployment
from serving.handle import (
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
    Streaming,
)

T = TypeVar("T")


@serving.deployment
class Model:
    def __init__(self, size: int, *, path: str = "") -> None:
        self.size = size
        self.name = path  # no member of the deployment

    async def __call__(self, text: str, times: int = 1) -> float:
        return len(text) / self.size

    def count(self, text: str) -> int:
        return len(text)

    def plain(self, value: int) -> list[int]:
        return [value]

    async def total(self, values: list[float], by_name: dict[str, int] | None = None) -> float:
        return sum(values)

    async def pair(self, pair: tuple[int, str]) -> str:
        return pair[1]

    async def words(self, text: str) -> AsyncGenerator[str, None]:
        yield text

    def numbers(self, count: int) -> Generator[int, None, None]:
        yield from range(count)

    @serving.batch
    async def root(self, values: list[int]) -> list[float]:
        return [value**0.5 for value in values]

    @serving.batch(max_batch_size=4)
    def plain_root(self, values: list[int]) -> list[float]:
        return [value**0.5 for value in values]

    @serving.batch
    async def two(self, values: list[int], names: list[str]) -> list[float]:
        return [value**0.5 for value in values]

    @serving.batch
    async def batched_words(self, texts: list[str]) -> AsyncGenerator[list[str], None]:
        yield texts

    @overload
    def either(self, value: int) -> int: ...
    @overload
    def either(self, value: str) -> str: ...
    def either(self, value: int | str) -> int | str:
        return value

    def same(self, value: T) -> T:
        return value

    @staticmethod
    def static(value: int) -> str:
        return str(value)

    def untyped(self, value):
        return value

    def untyped_words(self, text):
        yield text


@serving.deployment(num_replicas=2)
class Other:
    """Takes nothing."""


class Base(ABC):
    @abstractmethod
    def predict(self, value: int) -> str: ...


@serving.deployment
class Derived(Base):
    def predict(self, value: int) -> str:
        return str(value)


@serving.deployment
class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    async def get(self) -> T:
        return self.value


@serving.deployment
class Ingress:
    def __init__(
        self,
        model: DeploymentHandle[Model],
        others: list[DeploymentHandle[Model]] | None = None,
        *,
        named: Mapping[str, DeploymentHandle[Base]] | None = None,
        anything: DeploymentHandle | None = None,
    ) -> None:
        self.model = model
        self.tokens = model.options(stream=True)

    async def __call__(self, text: str) -> float:
        assert_type(self.tokens, DeploymentHandle[Streaming[Model]])
        return await self.model.remote(text)


app = FastAPI()


@serving.deployment
@serving.ingress(app)
class Api:
    def __init__(self, model: DeploymentHandle[Model]) -> None:
        self.model = model

    @app.get("/")
    async def root(self, text: str) -> float:
        return await self.model.remote(text)


@serving.deployment
async def function(text: str) -> int:
    return len(text)


@serving.deployment(num_replicas=2)
def plain_function(text: str) -> int:
    return len(text)


def takes_any(deployment: Deployment) -> serving.Application:
    return deployment.bind()


def binding() -> None:
    model = Model.bind(1, path="x")
    assert_type(model, serving.Application[Model])
    assert_type(Model.options(num_replicas=2).bind(1), serving.Application[Model])
    assert_type(Model.name, str)
    assert_type(Model(1), Model)
    assert_type(Model(1).name, str)
    assert_type(Other.bind(), serving.Application[Other])
    assert_type(Box.bind(1), serving.Application[Box[int]])
    assert_type(serving.run(Box.bind("x")).get.remote().result(), str)
    assert_type(Api.bind(model), serving.Application[Api])
    takes_any(Model)

    assert_type(Ingress.bind(model), serving.Application[Ingress])
    models = [Model.bind(size) for size in range(3)]
    Ingress.bind(model, [model, Model.bind(2)], named={"a": Derived.bind()}, anything=Other.bind())
    Ingress.bind(model, models, anything=model)
    Ingress.options(name="other").bind(model, others=models)
    derived = {"a": Derived.bind()}
    Ingress.bind(model, named=derived)


def functions() -> None:
    assert_type(function.name, str)
    assert_type(plain_function("x"), int)
    handle = serving.run(function.bind())
    assert_type(handle.remote("x"), DeploymentResponse[int])
    assert_type(serving.run(plain_function.options(name="x").bind()).remote("x").result(), int)


async def calling(handle: DeploymentHandle[Model], base: DeploymentHandle[Base]) -> None:
    assert_type(serving.run(Model.bind(1)), DeploymentHandle[Model])
    assert_type(serving.testing.run(Model.bind(1)).handle, DeploymentHandle[Model])
    assert_type(handle.remote("x", times=2), DeploymentResponse[float])
    assert_type(await handle.remote("x"), float)
    assert_type(handle.remote("x").result(timeout_s=1), float)
    assert_type(handle.options(timeout_s=1).remote("x"), DeploymentResponse[float])
    assert_type(await handle.plain.remote(1), list[int])
    assert_type(await handle.plain.options(timeout_s=3).remote(value=1), list[int])
    assert_type(await handle.static.remote(1), str)
    assert_type(await handle.options(method_name="plain").remote(1), list[int])
    assert_type(await base.predict.remote(1), str)

    # What no type can say stays unchecked.
    assert_type(await handle.untyped.remote(1), Any)
    assert_type(handle.either.remote(1), Any)
    assert_type(handle.same.remote(1), Any)
    bare: DeploymentHandle = handle
    assert_type(bare.remote(1), Any)
    assert_type(bare.anything.remote(1), Any)
    assert_type(serving.get_app_handle("app").remote(1), Any)


async def streams(handle: DeploymentHandle[Model]) -> None:
    words = handle.options(stream=True).words
    assert_type(words.remote("x"), DeploymentResponseGenerator[str])
    async for word in words.remote("x"):
        assert_type(word, str)
    for number in handle.numbers.options(stream=True).remote(3):
        assert_type(number, int)
    async for word in handle.options(method_name="words", stream=True).remote("x"):
        assert_type(word, str)
    async for word in handle.options(stream=True).batched_words.remote("x"):
        assert_type(word, str)
    assert_type(
        handle.options(stream=True).untyped_words.remote(1), DeploymentResponseGenerator[Any]
    )
    assert_type(handle.options(stream=True).options(stream=False), DeploymentHandle[Model])


async def batches(handle: DeploymentHandle[Model], model: Model) -> None:
    assert_type(await model.root(4), float)
    assert_type(await model.plain_root(4), float)
    assert_type(await handle.root.remote(4), float)
    assert_type(await handle.plain_root.remote(4), float)
    assert_type(await model.two(4, "x"), float)
    assert_type(await model.two(values=4, names="x"), float)
    assert_type(await handle.two.remote(4, names="x"), float)


async def responses(handle: DeploymentHandle[Model]) -> None:
    number = handle.remote("x")
    numbers = [handle.remote("x") for _ in range(3)]
    text = handle.pair.remote((1, "x"))
    assert_type(handle.remote(text, times=2), DeploymentResponse[float])
    assert_type(handle.remote(handle.pair.remote((1, "x"))), DeploymentResponse[float])
    handle.remote(text=text)
    handle.total.remote(numbers)
    handle.total.remote([number, 1.0, 2])
    handle.total.remote([1, 2])
    handle.total.remote([number], by_name={"a": handle.count.remote("x"), "b": 1})
    handle.pair.remote((1, text))
    handle.pair.remote((1, "x"))
