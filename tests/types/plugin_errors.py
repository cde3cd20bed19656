"""What mypy refuses with the plugin: each line with a `type: ignore` must fail, and with that code;
mypy itself tells which did not. Nothing here runs.
"""

from __future__ import annotations

import serving
import serving.testing
from serving.handle import DeploymentHandle
from tests.types.plugin import Ingress, Model, Other, function


def binding() -> None:
    model = Model.bind(1)
    Model.bind("x")  # type: ignore[arg-type]
    Model.bind()  # type: ignore[call-arg]
    Model.bind(1, "x")  # type: ignore[call-arg]
    Model.bind(size=1, pth="x")  # type: ignore[call-arg]
    Other.bind(1)  # type: ignore[call-arg]
    Model.options(num_replica=2)  # type: ignore[call-arg]
    Model.options(num_replicas="2")  # type: ignore[arg-type]
    Model.options(num_replicas=2).bind("x")  # type: ignore[arg-type]
    Model.bidn(1)  # type: ignore[attr-defined]
    serving.deployment(num_replica=2)  # type: ignore[call-overload]
    serving.run(Model)  # type: ignore[arg-type]
    serving.run(function)  # type: ignore[arg-type]
    serving.run(Model(1))  # type: ignore[arg-type]
    serving.testing.run(Model.options(num_replicas=2))  # type: ignore[arg-type]
    serving.testing.run(model).handle.remote(1)  # type: ignore[call-overload]

    Ingress.bind(Other.bind())  # type: ignore[arg-type]
    Ingress.bind(Model)  # type: ignore[arg-type]
    Ingress.bind(Model(1))  # type: ignore[arg-type]
    Ingress.bind(model, [Other.bind()])  # type: ignore[list-item]
    others = [Other.bind()]
    Ingress.bind(model, others)  # type: ignore[arg-type]
    Ingress.options(name="x").bind(model, others)  # type: ignore[arg-type]
    Ingress.bind(model, named={"a": model})  # type: ignore[dict-item]

    model.remote("x")  # type: ignore[arg-type]
    model.plain.remote(1)  # type: ignore[attr-defined]
    model.options(stream=True)  # type: ignore[call-arg]
    function.bind("x")  # type: ignore[call-arg]


async def calling(handle: DeploymentHandle[Model], other: DeploymentHandle[Other]) -> None:
    handle.remote(1)  # type: ignore[call-overload]
    handle.remote()  # type: ignore[call-overload]
    handle.remote("x", tims=1)  # type: ignore[call-overload]
    handle.pain.remote(1)  # type: ignore[attr-defined]
    handle.size.remote()  # type: ignore[attr-defined]
    handle._private.remote()  # type: ignore[attr-defined]
    handle.plain.remote("x")  # type: ignore[call-overload]
    handle.options(method_name="pain")  # type: ignore[attr-defined]
    handle.options(method_name="plain").remote("x")  # type: ignore[call-overload]
    handle.options(steam=True)  # type: ignore[call-overload]
    other.remote()  # type: ignore[misc]
    (await handle.plain.remote(1)).upper()  # type: ignore[attr-defined]
    handle.plain.remote(1).result().upper()  # type: ignore[attr-defined]
    handle.root.remote("x")  # type: ignore[call-overload]
    handle.two.remote(1, 2)  # type: ignore[call-overload]
    handle.two.remote(1, names=2)  # type: ignore[call-overload]
    serving.run(function.bind()).remote(1)  # type: ignore[call-overload]


async def streams(handle: DeploymentHandle[Model]) -> None:
    handle.words.remote("x")  # type: ignore[call-overload]
    handle.options(stream=True).words.remote(1)  # type: ignore[call-overload]
    handle.options(stream=True).plain.remote(1)  # type: ignore[misc]
    async for word in handle.options(stream=True).words.remote("x"):
        word.bit_length()  # type: ignore[attr-defined]
    async for _ in handle.remote("x"):  # type: ignore[attr-defined]
        pass


async def responses(handle: DeploymentHandle[Model]) -> None:
    number = handle.remote("x")
    handle.remote(number)  # type: ignore[call-overload]
    handle.plain.remote(handle.pair.remote((1, "x")))  # type: ignore[call-overload]
    handle.total.remote([handle.pair.remote((1, "x")), 1])  # type: ignore[list-item]
    handle.total.remote([number, "x"])  # type: ignore[list-item]
