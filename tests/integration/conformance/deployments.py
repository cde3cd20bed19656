"""The same applications as deployments: each the ingress of an empty class."""

from __future__ import annotations

import serving
from tests.integration.conformance import apps, fastapi_app, starlette_app


@serving.deployment
@serving.ingress(apps.plain)
class Plain:
    pass


@serving.deployment
@serving.ingress(starlette_app.starlette_app)
class Starlette:
    pass


@serving.deployment
@serving.ingress(fastapi_app.fastapi_app)
class FastAPI:
    pass


@serving.deployment
@serving.ingress(apps.no_lifespan)
class NoLifespan:
    pass


@serving.deployment
@serving.ingress(apps.lifespan_log)
class LifespanLog:
    pass


@serving.deployment
@serving.ingress(apps.failing_lifespan)
class FailingLifespan:
    pass


BY_NAME = {
    "plain": Plain,
    "starlette": Starlette,
    "fastapi": FastAPI,
    "no_lifespan": NoLifespan,
}
