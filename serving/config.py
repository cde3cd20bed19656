"""Settings, validated: what users pass to `serving.start`, `serving.deployment` and `.options`."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

ADDRESS_VARIABLE = "SERVING_ADDRESS"
"""Names the controller of the cluster that is meant; in a replica, of its own."""
_KEEP_ALIVE_VARIABLES = (
    "SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S",
    "RAY_SERVE_HTTP_KEEP_ALIVE_TIMEOUT_S",
)
_PORT_VARIABLE = "SERVING_HTTP_PORT"
_ADMIN_PORT_VARIABLE = "SERVING_ADMIN_PORT"
ADMIN_TOKEN_VARIABLE = "SERVING_ADMIN_TOKEN"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class _Settings(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        # Every process imports this module, and none needs all of these.
        defer_build=True,
    )


class HTTPOptions(_Settings):
    """How the proxies listen to HTTP clients."""

    host: str = "127.0.0.1"
    """Address to listen on. "0.0.0.0" opens it to the network."""
    port: int = Field(
        default_factory=lambda: _environment_number(_PORT_VARIABLE, int, 8000), ge=0, le=65535
    )
    """TCP port; 0 picks a free one, which `serving.status()` tells. The environment variable
    SERVING_HTTP_PORT sets the default."""
    root_path: str = ""
    """A path that something before the proxies cuts off; part of the ASGI `root_path`."""
    request_timeout_s: PositiveFloat | None = Field(default=None, strict=False)
    """Seconds that a request may take as a whole; then the client gets 408. None: no limit."""
    keep_alive_timeout_s: PositiveFloat = Field(default=90.0, strict=False)
    """Seconds that an idle connection stays open; longer than load balancers keep theirs. The
    environment variable SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S wins over it."""
    num_proxies: PositiveInt = 1
    """Proxy processes that share the port."""
    location: Literal["Disabled", "HeadOnly", "EveryNode"] | None = "EveryNode"
    """"Disabled" or None: no proxy, no HTTP."""
    ssl_certfile: str | None = None
    """Certificate chain in PEM form; together with `ssl_keyfile` the port speaks HTTPS."""
    ssl_keyfile: str | None = None

    @field_validator("location", mode="before")
    @classmethod
    def _none_is_disabled(cls, value: object) -> object:
        return "Disabled" if value is None or value == "NoServer" else value

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_path(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.endswith("/")):
            raise ValueError("must be empty, or begin with '/' and not end with one")
        return value

    @model_validator(mode="after")
    def _apply_environment(self) -> HTTPOptions:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        for variable in _KEEP_ALIVE_VARIABLES:
            if os.environ.get(variable):
                value = _environment_number(variable, float, 0.0)
                if value <= 0:
                    raise ValueError(f"{variable} must be above 0")
                object.__setattr__(self, "keep_alive_timeout_s", value)
                break
        return self


class AdminOptions(_Settings):
    """Where the REST API answers."""

    host: str = "127.0.0.1"
    """Address to listen on. Anywhere but on loopback, clients must show the token."""
    port: int = Field(
        default_factory=lambda: _environment_number(_ADMIN_PORT_VARIABLE, int, 8270),
        ge=0,
        le=65535,
    )
    """TCP port; 0 picks a free one, which `serving.status()` tells. The environment variable
    SERVING_ADMIN_PORT sets the default."""

    @property
    def is_loopback(self) -> bool:
        return self.host in _LOOPBACK_NAMES or self.host.startswith("127.")


class LoggingConfig(_Settings):
    """What the processes of a cluster log, and how."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The least severe level that is logged."""
    encoding: Literal["TEXT", "JSON"] = "TEXT"
    """"JSON": one object a line."""
    enable_access_log: bool = True
    """One line for each request."""
    logs_dir: str | None = None
    """A folder for log files; None: to stderr."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class ResourceOptions(_Settings):
    """`ray_actor_options`: what a replica's process asks for."""

    num_cpus: NonNegativeFloat | None = Field(default=None, strict=False)
    num_gpus: NonNegativeFloat | None = Field(default=None, strict=False)
    memory: NonNegativeFloat | None = Field(default=None, strict=False)
    """Bytes."""
    resources: dict[str, float] | None = Field(default=None, strict=False)
    runtime_env: dict[str, Any] | None = None
    """`env_vars` sets environment variables of the replica's process."""

    @field_validator("runtime_env")
    @classmethod
    def _only_env_vars(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for key in value or {}:
            if key != "env_vars":
                raise ValueError(f"has no {key!r} here; allowed: 'env_vars'")
        variables = (value or {}).get("env_vars", {})
        if not isinstance(variables, dict) or not all(
            isinstance(item, str) for pair in variables.items() for item in pair
        ):
            raise ValueError("'env_vars' must be a dict of str to str")
        return value


class DeploymentOptions(_Settings):
    """The options of a deployment, but for its name."""

    num_replicas: int = Field(default=1, ge=0)
    """Processes that run a copy of the deployment each."""
    max_ongoing_requests: PositiveInt = 100
    """Requests that one replica works on at a time."""
    max_queued_requests: int = Field(default=-1, ge=-1)
    """Requests that wait while all replicas are full; more get 503. -1: no limit."""
    user_config: Any = None
    """Passed to the object's `reconfigure` method. Anything that JSON can hold."""
    ray_actor_options: ResourceOptions | None = None
    """Resources and environment of each replica."""
    graceful_shutdown_timeout_s: NonNegativeFloat = Field(default=20.0, strict=False)
    """Seconds that a replica that is stopped may take to finish its requests."""
    graceful_shutdown_wait_loop_s: NonNegativeFloat = Field(default=2.0, strict=False)
    """Accepted for Ray Serve's sake: a replica stops as soon as its last request is done."""
    health_check_period_s: PositiveFloat = Field(default=10.0, strict=False)
    """Seconds between two health checks of a replica."""
    health_check_timeout_s: PositiveFloat = Field(default=30.0, strict=False)
    """Seconds in which a replica must answer a health check."""
    blocked_loop_timeout_s: PositiveFloat | None = Field(default=None, strict=False)
    """Seconds after which a replica whose event loop is blocked is replaced, its stacks being
    logged before. None: never, it is taken to be busy."""
    rolling_update_percentage: float = Field(default=0.2, gt=0, le=1, strict=False)
    """The share of the replicas, above 0 and up to 1, that an update replaces at a time; at least
    one. Each new one must be ready before an old one leaves. The default is Ray Serve's."""
    max_surge_percent: float = Field(default=100.0, ge=0, le=100, strict=False)
    """How many replicas may run beside `num_replicas` during an update, in percent of these; at
    least one, and those that finish their requests do not count. The default leaves it to
    `rolling_update_percentage`; it is for machines that have no room for so many."""
    http_adapter: Callable[..., Any] | None = None
    """A function that turns the HTTP request into the argument of the deployment."""

    @field_validator("num_replicas")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value == 0:
            raise ValueError(
                "0 would never serve a request; use 1 or more, or serving.delete() to stop it"
            )
        return value

    @field_validator("user_config")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"must be what JSON can hold: {error}") from None
        return value


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: dict[str, Any], owner: str) -> Model:
    """Makes `model` of `values`; errors name `owner`, the option and the fix.

    Unknown options raise TypeError, as unknown arguments do; wrong values raise ValueError.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        unknown = any(problem["type"] == "extra_forbidden" for problem in problems)
        lines = [f"{owner}: {_explained(model, problem)}" for problem in problems]
        raise (TypeError if unknown else ValueError)("\n".join(lines)) from None


def _explained(model: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    option = ".".join(path)
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(model, path[:-1])
        near = difflib.get_close_matches(path[-1], fields, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown option {option!r}{hint}; allowed: {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not option:
        return str(message)
    return f"option {option!r}: {message}; got {problem['input']!r}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    if path == ["ray_actor_options"]:
        return list(ResourceOptions.model_fields)
    fields = list(model.model_fields)
    # A deployment's name is given among its options, and kept beside them.
    return ["name", *fields] if model is DeploymentOptions else fields


def _environment_number(variable: str, kind: Callable[[str], Any], default: Any) -> Any:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"the environment variable {variable} must be a number: {text!r}"
        ) from None
