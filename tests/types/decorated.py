"""What mypy with the plugin and pyright know of decorated classes, as tests/types/plain.py tells.

To pyright a decorated class is a value and no type: a handle of it is annotated with a protocol.
"""

from __future__ import annotations

from typing import Protocol, assert_type

import serving
from serving.handle import DeploymentHandle


class Scores(Protocol):
    async def __call__(self, text: str) -> float: ...


@serving.deployment
class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    async def __call__(self, text: str) -> float:
        return len(text) / self.size


@serving.deployment(num_replicas=2)
class Other:
    pass


@serving.deployment
class Ingress:
    def __init__(self, model: DeploymentHandle[Scores]) -> None:
        self.model = model

    async def __call__(self, text: str) -> float:
        return await self.model.remote(text)


async def use() -> None:
    model = Model.options(num_replicas=2).bind(1)
    assert_type(Model.name, str)
    assert_type(await serving.run(model).remote("x"), float)
    assert_type(await serving.run(Ingress.bind(model)).remote("x"), float)
    assert_type(Model(1).size, int)

    Model.bind("x")  # type: ignore[arg-type]
    Model.bidn(1)  # type: ignore[attr-defined]
    Ingress.bind(Other.bind())  # type: ignore[arg-type]
    serving.run(model).remote(1)  # type: ignore[call-overload]
