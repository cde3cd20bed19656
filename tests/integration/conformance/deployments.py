"""The same applications as deployments: each the ingress of an empty class."""

from __future__ import annotations

import serving
from tests.integration.conformance import apps, fastapi_app, starlette_app


@serving.ingress(apps.plain)
class Plain:
    pass


@serving.ingress(starlette_app.starlette_app)
class Starlette:
    pass


@serving.ingress(fastapi_app.fastapi_app)
class FastAPI:
    pass


@serving.ingress(apps.no_lifespan)
class NoLifespan:
    pass


@serving.ingress(apps.idle_lifespan)
class IdleLifespan:
    pass


@serving.ingress(apps.lifespan_log)
class LifespanLog:
    pass


@serving.ingress(apps.failing_lifespan)
class FailingLifespan:
    pass


BY_NAME: dict[str, serving.Deployment[[], object]] = {
    "plain": serving.deployment(Plain),
    "starlette": serving.deployment(Starlette),
    "fastapi": serving.deployment(FastAPI),
    "no_lifespan": serving.deployment(NoLifespan),
    "idle_lifespan": serving.deployment(IdleLifespan),
}
