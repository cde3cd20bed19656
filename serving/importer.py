"""Imports an application in a process of its own: `python -m serving.importer`.

`serving.configfile.importing` starts it. A fresh process imports what is in the files now, and an
error in them ends it and nothing else. The file whose descriptor is its argument holds what is
wanted, and then what came of it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import sys
import traceback
import typing
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ValidationError

from serving import api, lifeline
from serving.code import name_of
from serving.deployment import Application, Deployment
from serving.exceptions import ServingError
from serving.names import check_import_path
from serving.specs import (
    OptionError,
    Overrides,
    UnknownDeploymentError,
    application_spec,
    reachable_prefix,
)


class ImportPathError(Exception):
    """The import path names nothing that can be served; the message is one line."""


class ArgumentsError(Exception):
    """The arguments do not fit what the import path names."""


def load(import_path: str, arguments: dict[str, Any] | None = None) -> object:
    """Imports what `module:attribute` names, and calls it where it is a function that builds an
    application. Raises ImportPathError, ArgumentsError, or what the user's code raises."""
    found = _imported(import_path)
    if isinstance(found, Application | Deployment):
        if arguments:
            raise ArgumentsError(
                f"{import_path!r} is an application, which takes no arguments: name a function "
                "that takes them and returns one"
            )
        return found
    if not inspect.isroutine(found):
        raise ImportPathError(
            f"{import_path!r} is no application but {type(found).__name__!r}: "
            "did you forget @serving.deployment and .bind()?"
        )
    built = found(*_builder_arguments(import_path, found, arguments or {}))
    if not isinstance(built, Application):
        raise ImportPathError(
            f"{import_path!r} returned no application but {type(built).__name__!r}: "
            "did you forget @serving.deployment and .bind()?"
        )
    return built


def _imported(import_path: str) -> object:
    try:
        check_import_path(import_path)
    except ValueError as error:
        raise ImportPathError(str(error)) from None
    module_name, _, attribute = import_path.partition(":")
    try:
        with api.importing(module_name):
            found: object = importlib.import_module(module_name)
    except api.CalledWhileImportedError as error:
        raise ImportPathError(str(error)) from None
    except ModuleNotFoundError as error:
        # A module that the user's own imports in turn is an error with a traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ImportPathError(f"no module {error.name!r} in {sys.path[0]}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ImportPathError(_missing(found, module_name, part))
        found = getattr(found, part)
    return found


def _missing(owner: object, module_name: str, attribute: str) -> str:
    near = difflib.get_close_matches(attribute, dir(owner), n=1)
    applications = [name for name, value in vars(owner).items() if isinstance(value, Application)]
    hint = ""
    if near:
        hint = f"; did you mean {near[0]!r}?"
    elif applications:
        hint = f"; applications in it: {', '.join(applications)}"
    return f"module {module_name!r} has no attribute {attribute!r}{hint}"


def _builder_arguments(import_path: str, builder: Any, arguments: dict[str, Any]) -> list[Any]:
    """What a builder is called with: the mapping, or the model of it that it is annotated with."""
    parameters = list(inspect.signature(builder).parameters.values())
    needed = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if not parameters or len(needed) > 1:
        if not needed and not arguments:
            return []
        raise ArgumentsError(
            f"{import_path!r} must take one argument, all args as a dict or as a pydantic model, "
            f"to build an application; it takes {len(parameters)}"
        )
    if not needed and not arguments:
        return []
    model = typing.get_type_hints(builder).get(parameters[0].name)
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        return [arguments]
    try:
        return [model.model_validate(arguments)]
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        ]
        raise ArgumentsError(
            f"do not fit {model.__name__} of {import_path!r}: {'; '.join(problems)}"
        ) from None


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The specification of the application that is asked for, as a message; or the `error` and the
    `path` of what it is about in the application's section. With them the deployments, and the
    `given` options of each in its code."""
    application = request["application"]
    import_path = application["import_path"]
    sys.path[:0] = request["folders"]
    try:
        target = load(import_path, application.get("args"))
    except ImportPathError as error:
        return {"error": str(error), "path": ["import_path"]}, b""
    except ArgumentsError as error:
        return {"error": str(error), "path": ["args"]}, b""
    except Exception as error:
        text = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))
        problem = f"{import_path!r} cannot be imported:\n{text.rstrip()}"
        return {"error": problem, "path": ["import_path"]}, b""
    prefix = reachable_prefix(
        target, application["route_prefix"], lambda: bool(request["answers_grpc"])
    )
    return _specified(target, application | {"route_prefix": prefix}, request["salt"])


def _specified(
    target: object, application: dict[str, Any], salt: str
) -> tuple[dict[str, Any], bytes]:
    options = {
        section["name"]: {key: value for key, value in section.items() if key != "name"}
        for section in application.get("deployments", [])
    }
    seen = _Seen(options, application.get("runtime_env"))
    try:
        spec = application_spec(
            target, application["name"], application["route_prefix"], salt=salt, overrides=seen
        )
    except UnknownDeploymentError as error:
        return {"error": str(error), "path": ["deployments", error.name]}, b""
    except OptionError as error:
        return {"error": str(error), "path": ["deployments", error.deployment, *error.option]}, b""
    except (ServingError, TypeError, ValueError) as error:
        return {"error": str(error), "path": ["import_path"]}, b""
    return {"given": seen.given}, spec.SerializeToString()


class _Seen(Overrides):
    """Remembers what each deployment was given in the code."""

    def __init__(self, options: dict[str, Any], runtime_env: dict[str, Any] | None) -> None:
        super().__init__(options, runtime_env)
        self.given: dict[str, dict[str, Any]] = {}

    def applied(self, deployment: Deployment[..., Any], name: str) -> Deployment[..., Any]:
        chosen = {option for option, _ in deployment.given}
        written = deployment.config.model_dump(include=chosen, exclude_unset=True)
        # "auto" and None are not what the configuration holds: they are as they were given.
        self.given[name] = {
            option: written.get(option, value) for option, value in deployment.given
        }
        return super().applied(deployment, name)


def _users(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is neither ours nor importlib's."""
    here = os.path.dirname(__file__)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((here, "<frozen importlib")) and "importlib" not in file:
            return trace
        trace = trace.tb_next
    return None


def main() -> None:
    lifeline.watch(lambda: None, kill_after_s=0.0)
    with open(int(sys.argv[1]), "r+b") as file:
        found, spec = answer(json.load(file))
        file.seek(0)
        file.truncate()
        file.write(json.dumps(found, default=name_of).encode() + b"\n" + spec)


if __name__ == "__main__":
    main()
