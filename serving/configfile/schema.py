"""The schema of a config, with Ray Serve's names.

Options are those of `serving.config`; here stands what a file has besides. Only what is written
counts: a key with `null` is as if it were not there, but for `route_prefix: null`, no HTTP.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, PositiveInt, field_validator, model_validator

from serving.config import (
    RAY_ENV_ONLY,
    AutoscalingConfig,
    HTTPOptions,
    LoggingConfig,
    PlainOptions,
    ResourceOptions,
    RuntimeEnv,
    Settings,
    gRPCOptions,
)
from serving.names import check_application_name, check_deployment_name, check_route_prefix

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Ignored:
    """Marks a key that a file for Ray Serve may have, and that does nothing here."""

    why: str


class _Section(BaseModel):
    """A mapping of a config, in which `null` means: not given."""

    _null_counts: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        meaningless = cls.model_fields.keys() - cls._null_counts
        return {k: v for k, v in values.items() if v is not None or k not in meaningless}


class RuntimeEnvSchema(_Section, RuntimeEnv):
    """What the process of a replica finds around it. Relative paths are meant from the folder of
    the config file."""

    pip: Annotated[Any, Ignored(RAY_ENV_ONLY["pip"])] = None
    uv: Annotated[Any, Ignored(RAY_ENV_ONLY["uv"])] = None
    conda: Annotated[Any, Ignored(RAY_ENV_ONLY["conda"])] = None
    excludes: Annotated[list[str] | None, Ignored(RAY_ENV_ONLY["excludes"])] = None
    config: Annotated[Any, Ignored("there is no runtime_env to be set up")] = None


class RayActorOptionsSchema(_Section, ResourceOptions):
    """What a replica's process asks for."""

    runtime_env: RuntimeEnvSchema | None = None
    """What its process finds around it; wins over the application's."""


class LoggingConfigSchema(_Section, LoggingConfig):
    """What the processes log, and how."""

    additional_log_standard_attrs: Annotated[
        list[str] | None, Ignored("lines have a fixed form")
    ] = None

    @field_validator("log_level", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        return logging.getLevelName(value)


class AutoscalingConfigSchema(_Section, AutoscalingConfig):
    """How the number of replicas follows the load: the requests that are queued or worked on."""

    prometheus_metrics: Annotated[
        list[str] | None, Ignored("policies are told of requests only")
    ] = None


class DeploymentSchema(_Section, PlainOptions):
    """Options of one deployment. Those that are given win over those in its code."""

    name: str
    """Of the deployment, as the code has it: the class's or function's, unless given there."""
    autoscaling_config: AutoscalingConfigSchema | None = None
    """The number of replicas follows the load, in the place of a fixed `num_replicas`."""
    ray_actor_options: RayActorOptionsSchema | None = None
    """Resources and environment of each replica."""
    logging_config: Annotated[
        LoggingConfigSchema | None, Ignored("logging_config at the top level is for all")
    ] = None
    placement_group_bundles: Annotated[
        list[dict[str, float]] | None, Ignored("all replicas run on this machine")
    ] = None
    placement_group_strategy: Annotated[str | None, Ignored("all replicas run on this machine")] = (
        None
    )
    request_router_config: Annotated[
        dict[str, Any] | None, Ignored("requests go to the less busy of two replicas")
    ] = None
    max_constructor_retry_count: Annotated[
        PositiveInt | None, Ignored("a version that cannot start is given up after 3 tries")
    ] = None

    _check_name = field_validator("name")(lambda cls, value: _checked(check_deployment_name, value))


class ServeApplicationSchema(_Section, Settings):
    """One application."""

    _null_counts = frozenset({"route_prefix"})

    name: str = "default"
    """Tells it from the others."""
    route_prefix: str | None = "/"
    """The HTTP path that it serves; null: no HTTP."""
    import_path: str
    """Where its code is: `module:app`, a result of `.bind()`; or `module:function`, a function that
    takes `args` and returns such a result."""
    args: dict[str, Any] = {}
    """For the function that `import_path` names: it gets this mapping, or, where its parameter is
    annotated with a pydantic model, that made of it."""
    runtime_env: RuntimeEnvSchema = RuntimeEnvSchema()
    """What the processes of its replicas find around them, and the one that imports its code. Those
    of deployments win, key by key, and variable by variable."""
    deployments: list[DeploymentSchema] = []
    """Options of its deployments that win over those in the code. Others are as the code has
    them."""
    logging_config: Annotated[
        LoggingConfigSchema | None, Ignored("logging_config at the top level is for all")
    ] = None
    external_scaler_enabled: Annotated[
        bool | None, Ignored("there is no interface for an external scaler")
    ] = None
    """Refused beside an `autoscaling_config`, as by Ray Serve."""
    autoscaling_policy: Annotated[
        dict[str, Any] | None, Ignored("policies belong to deployments")
    ] = None

    _check_name = field_validator("name")(
        lambda cls, value: _checked(check_application_name, value)
    )

    @field_validator("route_prefix")
    @classmethod
    def _check_route_prefix(cls, value: str | None) -> str | None:
        return None if value is None else _checked(check_route_prefix, value)

    @field_validator("import_path")
    @classmethod
    def _with_colon(cls, value: str) -> str:
        """Ray Serve takes `module.app` too."""
        module, dot, attribute = value.rpartition(".")
        spelled = f"{module}:{attribute}" if dot and ":" not in value else value
        if value.endswith(".py") or ".py:" in value or "/" in value:
            raise ValueError(f"{value!r} is a file: write it as one imports it, 'folder.file:app'")
        if not _IMPORT_PATH.fullmatch(spelled):
            raise ValueError(f"{value!r} is not of the form 'module:app'")
        return spelled


class HTTPOptionsSchema(_Section, HTTPOptions):
    """How the proxies listen to HTTP clients. Taken when the cluster starts."""

    _check_host = field_validator("host")(lambda cls, value: _checked(_is_address, value))

    ssl_keyfile_password: None = None
    """Refused: the key file must not be encrypted."""
    ssl_ca_certs: None = None
    """Refused: certificates of clients are not checked."""

    @field_validator("ssl_keyfile_password", "ssl_ca_certs", mode="before")
    @classmethod
    def _refused(cls, value: object) -> None:
        raise ValueError("is not supported, and to leave it out would make the port less safe")


class gRPCOptionsSchema(_Section, gRPCOptions):
    """How the proxies listen to gRPC clients. They do so where `grpc_servicer_functions` are given.
    Taken when the cluster starts."""

    _check_host = field_validator("host")(lambda cls, value: _checked(_is_address, value))


class ServeDeploySchema(_Section, Settings):
    """A config: all that a cluster is to run."""

    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] = "EveryNode"
    """Where proxies run; "Disabled": no HTTP. Taken when the cluster starts."""
    http_options: HTTPOptionsSchema = Field(default_factory=HTTPOptionsSchema)
    """How the proxies listen to HTTP clients. Taken when the cluster starts."""
    grpc_options: gRPCOptionsSchema = Field(default_factory=gRPCOptionsSchema)
    """How the proxies listen to gRPC clients. Taken when the cluster starts."""
    logging_config: LoggingConfigSchema = Field(default_factory=LoggingConfigSchema)
    """What the processes log, and how. Taken when the cluster starts."""
    applications: list[ServeApplicationSchema]
    """All applications. One that runs and is not listed is deleted."""
    target_capacity: Annotated[
        float | None, Ignored("replicas are as many as each deployment says")
    ] = None

    @property
    def given_http(self) -> dict[str, Any]:
        """The HTTP options that are given, proxy_location as the one of them that it is."""
        found = given(self.http_options)
        if "proxy_location" in self.model_fields_set:
            found["location"] = self.proxy_location
        return found

    def cluster_options(
        self,
        http: Mapping[str, Any] = {},
        logging: Mapping[str, Any] = {},
        grpc: Mapping[str, Any] = {},
    ) -> tuple[HTTPOptions, LoggingConfig, gRPCOptions]:
        """What a cluster that is started for this config is started with; these options win."""
        return (
            HTTPOptions(**{**self.given_http, **http}),
            LoggingConfig(**{**given(self.logging_config), **logging}),
            gRPCOptions(**{**given(self.grpc_options), **grpc}),
        )


def given(section: BaseModel) -> dict[str, Any]:
    """What a section was given and acts on, without what does nothing here."""
    fields = type(section).model_fields
    found = {}
    for name in section.model_fields_set:
        value = getattr(section, name)
        if not any(isinstance(mark, Ignored) for mark in fields[name].metadata):
            found[name] = given(value) if isinstance(value, BaseModel) else value
    return {name: found[name] for name in fields if name in found}


def _is_address(host: str) -> None:
    if "/" in host or any(map(str.isspace, host)):
        raise ValueError("must be an address or a name alone, as '127.0.0.1' or 'localhost'")


def _checked(check: Any, value: str) -> str:
    check(value)
    return value
