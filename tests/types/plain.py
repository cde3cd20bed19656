"""What every type checker knows: mypy without the plugin, mypy with it, and pyright.

Each `assert_type` must hold, and each line with a `type: ignore` must fail: the checkers themselves
tell which did not. Nothing here runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any, assert_type

from fastapi import FastAPI

import serving
from serving.deployment import Deployment
from serving.handle import (
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
    Streaming,
)


class Model:
    def __init__(self, size: int, *, path: str = "") -> None:
        self.size = size

    async def __call__(self, text: str, times: int = 1) -> float:
        return len(text) / self.size

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
    async def words(self, texts: list[str]) -> AsyncGenerator[list[str], None]:
        yield texts

    @serving.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Plain:
        return Plain()

    @serving.batch(max_batch_size=4)
    def plain_words(self, texts: list[str]) -> Iterator[list[str]]:
        yield texts


class Plain:
    def __call__(self, text: str) -> str:
        return text


class Words:
    async def __call__(self, text: str) -> AsyncGenerator[str, None]:
        yield text


class PlainWords:
    def __call__(self, text: str) -> Iterator[str]:
        yield text


class Silent:
    pass


class Ingress:
    def __init__(
        self, model: DeploymentHandle[Model], others: list[DeploymentHandle[Model]] | None = None
    ) -> None:
        self.model = model


@serving.ingress(FastAPI())
class Api:
    pass


@serving.batch(max_batch_size=2)
async def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@serving.deployment
async def function(text: str) -> int:
    return len(text)


@serving.deployment(num_replicas=2)
def plain_function(text: str) -> int:
    return len(text)


models = serving.deployment(Model)
silent = serving.deployment(num_replicas=2)(Silent)
ingresses = serving.deployment(max_ongoing_requests=5)(Ingress)


def binding() -> None:
    model = models.bind(1, path="x")
    assert_type(model, serving.Application[Model])
    assert_type(models.options(num_replicas=2).bind(1), serving.Application[Model])
    assert_type(models(1), Model)
    assert_type(serving.run(model), DeploymentHandle[Model])
    assert_type(Api(), Api)
    bare: Deployment = models
    assert_type(bare.bind("x"), serving.Application[Any])

    assert_type(ingresses.bind(model), serving.Application[Ingress])
    ingresses.bind(model, [model, models.bind(2)])

    models.bind("x")  # type: ignore[arg-type]
    models.bind()  # type: ignore[call-arg]
    models.bind(1, pth="x")  # type: ignore[call-arg]
    models.options(num_replica=2)  # type: ignore[call-arg]
    models.options(num_replicas="2")  # type: ignore[arg-type]
    models.options(num_replicas=2).bind("x")  # type: ignore[arg-type]
    serving.deployment(num_replica=2)  # type: ignore[call-overload]
    ingresses.bind(silent.bind())  # type: ignore[arg-type]
    ingresses.bind(models)  # type: ignore[arg-type]
    ingresses.bind(model, [silent.bind()])  # type: ignore[list-item]
    model.remote("x")  # type: ignore[arg-type]
    model.options(stream=True)  # type: ignore[call-arg]
    serving.run(models)  # type: ignore[arg-type]


def functions() -> None:
    assert_type(plain_function("x"), int)
    assert_type(serving.run(function.bind()).remote("x"), DeploymentResponse[int])
    assert_type(serving.run(plain_function.options(name="x").bind()).remote("x").result(), int)

    function.bind("x")  # type: ignore[call-arg]
    serving.run(function.bind()).remote(1)  # type: ignore[call-overload]


async def calling(
    handle: DeploymentHandle[Model],
    plain: DeploymentHandle[Plain],
    nothing: DeploymentHandle[Silent],
) -> None:
    assert_type(handle.remote("x", times=2), DeploymentResponse[float])
    assert_type(await handle.remote("x"), float)
    assert_type(handle.remote("x").result(timeout_s=1), float)
    assert_type(plain.options(timeout_s=1).remote("x"), DeploymentResponse[str])
    assert_type(handle.remote(plain.remote("x"), times=2), DeploymentResponse[float])

    bare: DeploymentHandle = handle
    assert_type(bare.remote(1), Any)
    assert_type(bare.anything.remote(1), Any)
    assert_type(serving.get_app_handle("app").remote(1), Any)

    handle.remote(1)  # type: ignore[call-overload]
    handle.remote()  # type: ignore[call-overload]
    handle.remote("x", tims=1)  # type: ignore[call-overload]
    handle.options(steam=True)  # type: ignore[call-overload]
    nothing.remote()  # type: ignore[misc]


async def streams(words: DeploymentHandle[Words], plain: DeploymentHandle[PlainWords]) -> None:
    assert_type(words.options(stream=True), DeploymentHandle[Streaming[Words]])
    assert_type(words.options(stream=True).options(stream=False), DeploymentHandle[Words])
    assert_type(words.options(stream=True).remote("x"), DeploymentResponseGenerator[str])
    async for word in words.options(stream=True).remote("x"):
        assert_type(word, str)
    for word in plain.options(stream=True, timeout_s=3).remote("x"):
        assert_type(word, str)
    bare: DeploymentHandle = words
    assert_type(bare.options(stream=True).remote("x"), DeploymentResponseGenerator[Any])

    words.options(stream=True).remote(1)  # type: ignore[call-overload]


async def batches(model: Model) -> None:
    assert_type(await model.root(4), float)
    assert_type(await model.plain_root(4), float)
    assert_type(await model.two(4, "x"), float)
    assert_type(await lengths("x"), int)
    async for word in model.words("x"):
        assert_type(word, str)
    async for word in model.plain_words("x"):
        assert_type(word, str)
    model.root.set_max_batch_size(3)
    lengths.set_max_batch_size(3)

    await model.root("x")  # type: ignore[arg-type]
    await lengths(1)  # type: ignore[arg-type]


@serving.multiplexed
async def load(model_id: str) -> Plain:
    return Plain()


async def multiplexing(model: Model) -> None:
    assert_type(await model.get_model("m"), Plain)
    assert_type(await model.get_model(model_id="m"), Plain)
    assert_type(await load("m"), Plain)

    await model.get_model(1)  # type: ignore[arg-type]
    await load()  # type: ignore[call-arg]


def load_plainly(model_id: str) -> Plain:
    return Plain()


async def load_by_number(number: int) -> Plain:
    return Plain()


serving.multiplexed(load_plainly)  # type: ignore[type-var]
serving.multiplexed(max_num_models_per_replica=2)(load_by_number)  # type: ignore[type-var]
serving.multiplexed(max_num_models_per_replica="2")  # type: ignore[call-overload]
