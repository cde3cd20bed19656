"""Deploys one application to the cluster that SERVING_ADDRESS names: `serving run` starts this."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from types import TracebackType

from serving import api, lifeline
from serving.deployment import Application, Deployment
from serving.exceptions import ServingError
from serving.specs import application_spec


class ImportPathError(Exception):
    """The import path names nothing that can be served; the message is one line."""


def load(import_path: str) -> object:
    """Imports what `module:attribute` names. Raises ImportPathError, or what the module raises."""
    module_name, colon, attribute = import_path.partition(":")
    if not colon or not module_name or not attribute or module_name.endswith(".py"):
        meant = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        hint = f"; did you mean '{meant}:{attribute or 'app'}'?" if meant else ""
        raise ImportPathError(f"{import_path!r} is not of the form module:app{hint}")
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
    if not isinstance(found, Application | Deployment):
        raise ImportPathError(
            f"{import_path!r} is no application but {type(found).__name__!r}: "
            "did you forget @serving.deployment and .bind()?"
        )
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


def main() -> None:
    lifeline.watch(lambda: None, kill_after_s=0.0)
    import_path, name, route_prefix, app_dir, salt, before, generation_fd = sys.argv[1:]
    if before:
        api.note_deployed(name, int(before))

    def tell(generation: int) -> None:
        os.write(int(generation_fd), f"{generation}\n".encode())

    sys.path.insert(0, app_dir)
    try:
        target = load(import_path)
    except ImportPathError as error:
        sys.exit(f"serving: {error}")
    except Exception as error:
        text = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))
        sys.exit(f"serving: {import_path!r} cannot be imported:\n{text.rstrip()}")
    try:
        api.deploy(application_spec(target, name, route_prefix or None, salt=salt), tell)
    except (ServingError, TypeError, ValueError) as error:
        sys.exit(f"serving: {error}")


def _users(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is neither ours nor importlib's."""
    here = os.path.dirname(__file__)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((here, "<frozen importlib")) and "importlib" not in file:
            return trace
        trace = trace.tb_next
    return None


if __name__ == "__main__":
    main()
