"""Options that several commands take, made from the settings that they set."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Set as AbstractSet
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel

from serving.cli.exit_codes import WrongArgumentError
from serving.cluster import ClusterSettings
from serving.config import (
    AdminOptions,
    HTTPOptions,
    LoggingConfig,
    NodeOptions,
    gRPCOptions,
    validated,
)
from serving.names import check_import_path

# The field of a settings class, and the flags that set it.
HTTP_FLAGS = {
    "host": ("--http-host", "--host"),
    "port": ("--http-port", "--port"),
    "num_proxies": ("--proxies",),
    "root_path": ("--root-path",),
    "request_timeout_s": ("--request-timeout-s",),
    "keep_alive_timeout_s": ("--keep-alive-timeout-s",),
    "location": ("--proxy-location",),
    "ssl_certfile": ("--ssl-certfile",),
    "ssl_keyfile": ("--ssl-keyfile",),
}
GRPC_FLAGS = {
    "host": ("--grpc-host",),
    "port": ("--grpc-port",),
    "grpc_servicer_functions": ("--grpc-servicer-functions",),
    "request_timeout_s": ("--grpc-request-timeout-s",),
    "enable_reflection": ("--grpc-reflection/--no-grpc-reflection",),
    "max_receive_message_bytes": ("--grpc-max-receive-message-bytes",),
    "max_send_message_bytes": ("--grpc-max-send-message-bytes",),
    "ssl_certfile": ("--grpc-ssl-certfile",),
    "ssl_keyfile": ("--grpc-ssl-keyfile",),
    "ssl_ca_certs": ("--grpc-ssl-ca-certs",),
}
ADMIN_FLAGS = {"host": ("--admin-host",), "port": ("--admin-port",)}
LOGGING_FLAGS = {
    "log_level": ("--log-level",),
    "encoding": ("--log-encoding",),
    "enable_access_log": ("--access-log/--no-access-log",),
    "logs_dir": ("--logs-dir",),
}
OWNERS: dict[type[BaseModel], str] = {
    HTTPOptions: "HTTP",
    gRPCOptions: "gRPC",
    AdminOptions: "REST API",
    LoggingConfig: "logging",
    NodeOptions: "machine",
}
NODE_FLAGS = {
    "num_cpus": ("--num-cpus",),
    "num_gpus": ("--num-gpus",),
    "memory": ("--memory",),
    "resources": ("--resources",),
}


def checked_import_path(path: str) -> str:
    """The same. Raises WrongArgumentError where it is not of the form module:app."""
    try:
        check_import_path(path)
    except ValueError as error:
        raise WrongArgumentError(str(error)) from None
    return path


def settings(
    folder: Path,
    http: HTTPOptions,
    logging: LoggingConfig,
    grpc: gRPCOptions,
    *,
    admin: AdminOptions | None = None,
    node: NodeOptions | None = None,
    flags: AbstractSet[str] = frozenset(),
) -> ClusterSettings:
    """What a cluster is to be started with; the functions of its gRPC services are imported from
    `folder`, too. `flags` are the options of gRPC that the command line gives. Raises
    WrongArgumentError where they name what cannot be served."""
    if flags and not grpc.grpc_servicer_functions:
        given = ", ".join(GRPC_FLAGS[name][0] for name in GRPC_FLAGS if name in flags)
        raise WrongArgumentError(
            f"{given}: there is no gRPC service to answer for; name some with "
            "--grpc-servicer-functions helloworld_pb2_grpc.add_GreeterServicer_to_server"
        )
    sys.path.insert(0, str(folder.absolute()))
    try:
        return ClusterSettings(http, logging, admin, node or NodeOptions(), grpc)
    except ValueError as error:
        raise WrongArgumentError(str(error)) from None


Command = TypeVar("Command", bound=Callable[..., Any])


def takes(
    model: type[BaseModel], into: str, flags: Mapping[str, tuple[str, ...]]
) -> Callable[[Command], Command]:
    """Gives a command an option for each of these fields; it gets them as one object, `into`, with
    defaults for what was not given."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def taking(**arguments: Any) -> Any:
            given = {name: arguments.pop(f"{into}_{name}") for name in flags}
            return command(**arguments, **{into: _made(model, given)})

        own = inspect.signature(command, eval_str=True)
        kept = [each for name, each in own.parameters.items() if name != into]
        parameters = [*kept, *(_parameter(model, into, *each) for each in flags.items())]
        taking.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {each.name: each.annotation for each in parameters}
        return taking  # type: ignore[return-value]

    return decorate


def _made(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    values = {name: value for name, value in given.items() if value not in (None, [])}
    try:
        return validated(model, values, OWNERS[model])
    except ValueError as error:
        raise WrongArgumentError(str(error)) from None


def _parameter(
    model: type[BaseModel], into: str, name: str, flags: tuple[str, ...]
) -> inspect.Parameter:
    field = model.model_fields[name]
    default = field.get_default(call_default_factory=True)
    shown = None if default in (None, "", []) else str(default)
    option = typer.Option(*flags, help=_documentation(model)[name], show_default=shown or False)
    kind: Any = Annotated[_type_of(field.annotation) | None, option]
    parameter = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(f"{into}_{name}", parameter, default=None, annotation=kind)


def _type_of(annotation: Any) -> Any:
    """The type that a shell's word is read as: checks are the settings' own."""
    if annotation in (str, int, float, bool):
        return annotation
    if get_origin(annotation) is list:
        return list[str]
    if get_origin(annotation) is Literal:
        return str
    return _type_of(next(each for each in get_args(annotation) if each is not type(None)))


def _documentation(model: type[BaseModel]) -> dict[str, str]:
    """What the source says below each field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = dict.fromkeys(model.model_fields, "")
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            found[getattr(field.target, "id", "")] = " ".join(text.split())
    return found
