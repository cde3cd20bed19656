"""Settings, validated: what users pass to `serving.start`, `serving.deployment` and `.options`."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from serving.names import servicer_function

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
AUTO = {"min_replicas": 1, "max_replicas": 100}
"""What `num_replicas="auto"` stands for, but for the defaults of AutoscalingConfig."""


class Settings(BaseModel):
    """What all settings have in common: unknown ones and other types are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        # Every process imports this module, and none needs all of these.
        defer_build=True,
    )


class ProxyLocation(StrEnum):
    """On which machines proxies run."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


class HTTPOptions(Settings):
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
        if value is None or value == "NoServer":
            return "Disabled"
        return value.value if isinstance(value, ProxyLocation) else value

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


def _is_path_of_function(path: str) -> str:
    servicer_function(path)
    return path


class gRPCOptions(Settings):
    """How the proxies listen to gRPC clients. They do so where `grpc_servicer_functions` are
    given."""

    host: str = "127.0.0.1"
    """Address to listen on. "0.0.0.0" opens it to the network."""
    port: int = Field(default=9000, ge=0, le=65535)
    """TCP port; 0 picks a free one, which `serving.status()` tells."""
    grpc_servicer_functions: list[Annotated[str, AfterValidator(_is_path_of_function)]] = []
    """Import paths of the generated functions of the services that are served, as
    "helloworld_pb2_grpc.add_GreeterServicer_to_server"."""
    request_timeout_s: PositiveFloat | None = Field(default=None, strict=False)
    """Seconds that a call may take as a whole; then the client gets DEADLINE_EXCEEDED. None: as
    long as the client gives it."""
    enable_reflection: bool = True
    """Tell clients that ask of the services and their messages (gRPC server reflection). True as in
    Ray Serve."""
    max_receive_message_bytes: PositiveInt = 100 * 1024 * 1024
    """Bytes of one message of a client, at most; with more its call gets RESOURCE_EXHAUSTED."""
    max_send_message_bytes: PositiveInt = 100 * 1024 * 1024
    """Bytes of one message to a client, at most; with more its call gets RESOURCE_EXHAUSTED."""
    ssl_certfile: str | None = None
    """Certificate chain in PEM form; together with `ssl_keyfile` the port speaks TLS."""
    ssl_keyfile: str | None = None
    """Its private key in PEM form, not encrypted."""
    ssl_ca_certs: str | None = None
    """Certificates in PEM form: clients must show one that these have signed."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> gRPCOptions:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        if self.ssl_ca_certs is not None and self.ssl_certfile is None:
            raise ValueError("ssl_ca_certs needs ssl_certfile and ssl_keyfile")
        return self


class AdminOptions(Settings):
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


class LoggingConfig(Settings):
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
        known = ("debug", "info", "warning", "error", "critical")
        return value.upper() if isinstance(value, str) and value.lower() in known else value


class NodeOptions(Settings):
    """What the machine is taken to have. What is not given is found out."""

    num_cpus: NonNegativeFloat | None = Field(default=None, strict=False)
    """None: those that the process may run on."""
    num_gpus: int | None = Field(default=None, ge=0)
    """None: those that CUDA_VISIBLE_DEVICES names, or else those that NVIDIA's driver tells of."""
    memory: NonNegativeFloat | None = Field(default=None, strict=False)
    """Bytes. None: what the machine or its container has."""
    resources: dict[str, NonNegativeFloat] | None = Field(default=None, strict=False)
    """What replicas may ask for besides, by names of your own: '{"license": 2}' in a shell."""

    @field_validator("resources", mode="before")
    @classmethod
    def _may_be_json(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(f"must be a JSON object: {error}") from None
        return value

    @field_validator("resources")
    @classmethod
    def _has_no_options_in_it(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return _custom(value)


class RuntimeEnv(Settings):
    """What a replica's process runs with, beside the cluster's own environment."""

    env_vars: dict[str, str] | None = None
    """Environment variables. `${NAME}` in a value is what the variable was before."""
    working_dir: str | None = None
    """A folder, or a .zip file, to run in and to import from. Replicas get what is in it when it is
    deployed."""
    py_modules: list[str] | None = None
    """Modules to import: folders of packages, .py files, wheels and .zip files. Replicas get what
    is in them when they are deployed."""

    @model_validator(mode="before")
    @classmethod
    def _has_what_ray_has(cls, values: object) -> object:
        for key in values if isinstance(values, dict) else ():
            if key in RAY_ENV_ONLY and key not in cls.model_fields:
                raise ValueError(
                    f"{key!r} is refused: {RAY_ENV_ONLY[key]}; allowed: "
                    f"{', '.join(RuntimeEnv.model_fields)}"
                )
        return values

    @field_validator("py_modules", mode="before")
    @classmethod
    def _modules_are_their_files(cls, value: object) -> object:
        return [_module_path(each) for each in value] if isinstance(value, list) else value

    @field_validator("working_dir", "py_modules")
    @classmethod
    def _is_local(cls, value: str | list[str] | None) -> str | list[str] | None:
        for path in [value] if isinstance(value, str) else value or []:
            if "://" in path:
                raise ValueError(
                    "URIs are not fetched: name a folder or file of the machine that deploys"
                )
            if not path:
                raise ValueError("a path may not be empty")
        return value


_INSTALL = "install packages where serving itself is installed"
RAY_ENV_ONLY = {
    "pip": _INSTALL,
    "uv": _INSTALL,
    "conda": _INSTALL,
    "container": "run the whole cluster in one",
    "image_uri": "run the whole cluster in a container",
    "py_executable": "replicas run with the Python that runs the cluster",
    "excludes": ".git, .venv, venv and __pycache__ are left out, and nothing else",
}
"""What Ray's runtime_env has besides, and what to do instead."""


def _module_path(module: object) -> object:
    """Where an imported module lies, which may stand in the place of its path."""
    if not isinstance(module, ModuleType):
        return module
    folders = list(getattr(module, "__path__", ()))
    if len(folders) > 1:
        raise ValueError(f"module {module.__name__!r} lies in several folders: name them")
    return folders[0] if folders else module.__file__


class ResourceOptions(Settings):
    """`ray_actor_options`: what a replica's process asks for."""

    num_cpus: NonNegativeFloat | None = Field(default=None, strict=False)
    """None: it asks for none."""
    num_gpus: NonNegativeFloat | None = Field(default=None, strict=False)
    """Whole ones for itself, or, below 1, a share of one."""
    memory: NonNegativeFloat | None = Field(default=None, strict=False)
    """Bytes."""
    resources: dict[str, NonNegativeFloat] | None = Field(default=None, strict=False)
    """Of what the cluster was told to have."""
    accelerator_type: str | None = None
    """The kind of GPU, "A100": asks for a machine with the resource `accelerator_type:A100`."""
    runtime_env: RuntimeEnv | None = None
    """Environment variables, and files to run with."""

    @field_validator("num_gpus")
    @classmethod
    def _is_whole_or_a_share(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("above 1 it must be a whole number: a share is of one GPU")
        return value

    @field_validator("resources")
    @classmethod
    def _has_no_options_in_it(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return _custom(value)


_BUILT_IN = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def _custom(resources: dict[str, float] | None) -> dict[str, float] | None:
    for kind in resources or {}:
        if kind in _BUILT_IN:
            raise ValueError(f"{kind!r} is no resource of its own: use {_BUILT_IN[kind]!r}")
    return resources


class AutoscalingPolicy(Settings):
    """A function of one's own that says how many replicas there are to be."""

    policy_function: str | Callable[..., Any]
    """The function, or its import path, "package.module:function". It takes an
    `AutoscalingContext` and returns a number of replicas, or that and a dict which it is given
    again the next time (`policy_state`)."""


class AutoscalingConfig(Settings):
    """How the number of replicas follows the load: the requests that are queued or worked on."""

    min_replicas: NonNegativeInt = 1
    """With 0, the last replica goes after `downscale_to_zero_delay_s` without a request, and the
    next request starts one."""
    initial_replicas: NonNegativeInt | None = None
    """Replicas to begin with; None: `min_replicas`."""
    max_replicas: PositiveInt = 1
    """Never more than these."""
    target_ongoing_requests: PositiveFloat = Field(default=2.0, strict=False)
    """Requests for each replica, queued ones included, that the number of replicas aims at."""
    metrics_interval_s: PositiveFloat = Field(default=1.0, strict=False)
    """Seconds between two reports of a caller's load, and between two decisions."""
    look_back_period_s: PositiveFloat = Field(default=30.0, strict=False)
    """Seconds of load that a decision looks at."""
    smoothing_factor: PositiveFloat = Field(default=1.0, strict=False)
    """Deprecated: both of `upscaling_factor` and `downscaling_factor`."""
    upscale_smoothing_factor: PositiveFloat | None = Field(default=None, strict=False)
    """Deprecated: `upscaling_factor`."""
    downscale_smoothing_factor: PositiveFloat | None = Field(default=None, strict=False)
    """Deprecated: `downscaling_factor`."""
    upscaling_factor: PositiveFloat | None = Field(default=None, strict=False)
    """A step up is this many times as large as the load asks for."""
    downscaling_factor: PositiveFloat | None = Field(default=None, strict=False)
    """A step down likewise; never to less than the load needs."""
    upscale_delay_s: NonNegativeFloat = Field(default=30.0, strict=False)
    """Seconds for which more replicas must be wanted before there are more. Not from zero."""
    downscale_delay_s: NonNegativeFloat = Field(default=600.0, strict=False)
    """Seconds for which fewer must be wanted before there are fewer."""
    downscale_to_zero_delay_s: NonNegativeFloat | None = Field(default=None, strict=False)
    """Seconds without a request after which the last replica goes; None: `downscale_delay_s`."""
    aggregation_function: Literal["mean", "max", "min"] = "mean"
    """What the load of a period of time counts as."""
    policy: AutoscalingPolicy | None = None
    """Decides in the place of the load; the factors, limits and delays hold for it too."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> AutoscalingConfig:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) must not be below min_replicas "
                f"({self.min_replicas})"
            )
        if not self.min_replicas <= self.first_replicas <= self.max_replicas:
            raise ValueError(
                f"initial_replicas ({self.initial_replicas}) must lie between min_replicas "
                f"({self.min_replicas}) and max_replicas ({self.max_replicas})"
            )
        return self

    @property
    def first_replicas(self) -> int:
        """How many there are to begin with."""
        return self.min_replicas if self.initial_replicas is None else self.initial_replicas

    def get_upscaling_factor(self) -> float:
        """The one that holds of those that may be given."""
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def get_downscaling_factor(self) -> float:
        """The one that holds of those that may be given."""
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor


@dataclass(frozen=True)
class AutoscalingContext:
    """What a policy function is told of its deployment, in Ray Serve's words."""

    app_name: str
    deployment_name: str
    current_num_replicas: int
    """Those that take requests."""
    target_num_replicas: int
    """Those that there are to be, and that may be starting."""
    total_num_requests: float
    """Requests that are queued or worked on, over the look-back period."""
    total_queued_requests: float
    """Those of them that are queued, just now."""
    total_running_requests: float
    """Those of them that are worked on, just now."""
    capacity_adjusted_min_replicas: int
    """`min_replicas`"""
    capacity_adjusted_max_replicas: int
    """`max_replicas`"""
    policy_state: dict[str, Any]
    """What the function returned beside its number the last time; empty at first."""
    last_scale_up_time: float | None
    """Seconds since the epoch."""
    last_scale_down_time: float | None
    """Seconds since the epoch."""
    current_time: float
    """Seconds since the epoch."""
    config: AutoscalingConfig


class PlainOptions(Settings):
    """The options of a deployment that a config file can hold, too."""

    num_replicas: Annotated[
        int, WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]})
    ] = 1
    """Processes that run a copy of the deployment each. "auto": as many as the load asks for, from
    1 to 100, unless `autoscaling_config` says otherwise."""
    autoscaling_config: AutoscalingConfig | None = None
    """The number of replicas follows the load, in the place of a fixed `num_replicas`."""
    max_ongoing_requests: PositiveInt = 100
    """Requests that one replica works on at a time."""
    max_queued_requests: int = Field(default=-1, ge=-1)
    """Requests that wait while all replicas are full, in all proxies and handles together; more get
    503. -1: no limit."""
    user_config: Any = None
    """Passed to the object's `reconfigure` method. Anything that JSON can hold."""
    ray_actor_options: ResourceOptions | None = None
    """Resources and environment of each replica."""
    max_replicas_per_node: PositiveInt | None = None
    """Replicas that may be on one machine, those that are ending included. None: any number."""
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
    `rolling_update_percentage`; it is for machines that have no room for so many. With 0 there is
    none: an old replica ends before a new one starts, one after another; with one replica none
    serves in between."""

    @model_validator(mode="before")
    @classmethod
    def _auto_is_a_config(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("num_replicas", 1) not in ("auto", None):
            return values
        others = {key: value for key, value in values.items() if key != "num_replicas"}
        if values["num_replicas"] == "auto":
            config = others.get("autoscaling_config") or {}
            if isinstance(config, AutoscalingConfig):
                config = config.model_dump(exclude_unset=True)
            if isinstance(config, dict):
                others["autoscaling_config"] = {**AUTO, **config}
        return others

    @model_validator(mode="after")
    def _begins_with(self) -> PlainOptions:
        if self.autoscaling_config is not None:
            if "num_replicas" in self.model_fields_set:
                raise ValueError(
                    "num_replicas and autoscaling_config exclude each other: leave num_replicas "
                    'out, or make it "auto"'
                )
            object.__setattr__(self, "num_replicas", self.autoscaling_config.first_replicas)
        return self

    @field_validator("num_replicas", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError("must be a whole number or 'auto'")
        return value

    @field_validator("num_replicas")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError(
                f"{value} would never serve a request; use 1 or more, or serving.delete() to "
                "stop it"
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


class DeploymentOptions(PlainOptions):
    """The options of a deployment, but for its name."""

    http_adapter: Callable[..., Any] | None = None
    """A function that turns the HTTP request into the argument of the deployment."""


_ELSEWHERE = {
    "max_concurrent_queries": "it is called 'max_ongoing_requests'",
    "route_prefix": "give it to serving.run(..., route_prefix=...)",
    "version": "leave it out: a version is known by its code and options",
}
"""Options that Ray Serve has or had, and what to do instead."""

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
        if model is DeploymentOptions and option in _ELSEWHERE:
            return (
                f"unknown option {option!r}: {_ELSEWHERE[option]} "
                "(docs/migrating-from-ray-serve.md)"
            )
        fields = _fields_at(model, path[:-1])
        near = difflib.get_close_matches(path[-1], fields, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown option {option!r}{hint}; allowed: {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not option:
        return str(message)
    return f"option {option!r}: {message}; got {problem['input']!r}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    if path and path[0] == "ray_actor_options":
        inner = RuntimeEnv if path[1:] == ["runtime_env"] else ResourceOptions
        return list(inner.model_fields)
    if path == ["autoscaling_config"]:
        return list(AutoscalingConfig.model_fields)
    if path == ["autoscaling_config", "policy"]:
        return list(AutoscalingPolicy.model_fields)
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
