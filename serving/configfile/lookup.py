"""What of an application can be found wrong without running its code: files that are not there, and
names that its module does not define."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import symtable
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path as FilePath
from typing import Any

from serving.configfile.mistakes import Mistake, Path


def mistakes(application: dict[str, Any], folders: tuple[str, ...]) -> Iterator[Mistake]:
    """All of it, of an application's section with absolute paths, which is imported from these."""
    missing = list(missing_files(application))
    yield from missing
    environment = (application.get("runtime_env") or {}).get("env_vars") or {}
    if missing or "PYTHONPATH" in environment:
        return
    if problem := unknown_target(application["import_path"], folders):
        yield Mistake(("import_path",), problem)


def missing_files(application: dict[str, Any]) -> Iterator[Mistake]:
    """The folders and files of its `runtime_env`s that are not there; paths are absolute."""
    yield from _missing(application.get("runtime_env") or {}, ("runtime_env",))
    for index, deployment in enumerate(application.get("deployments") or []):
        runtime_env = (deployment.get("ray_actor_options") or {}).get("runtime_env") or {}
        place = ("deployments", index, "ray_actor_options", "runtime_env")
        yield from _missing(runtime_env, place)


def _missing(runtime_env: dict[str, Any], place: Path) -> Iterator[Mistake]:
    working_dir = runtime_env.get("working_dir")
    if working_dir and not os.path.exists(working_dir):
        yield Mistake((*place, "working_dir"), f"there is no {working_dir}")
    for index, module in enumerate(runtime_env.get("py_modules") or []):
        if not os.path.exists(module):
            yield Mistake((*place, "py_modules", index), f"there is no {module}")


def unknown_target(import_path: str, folders: tuple[str, ...]) -> str:
    """Why the import path names nothing, as far as the files tell; empty where they do not."""
    module, _, attribute = import_path.partition(":")
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = _found(name, folders, spec)
        if spec is None:
            return f"no module {name!r} in {folders[0]}"
    if spec is None or not str(spec.origin).endswith(".py"):
        return ""
    return _undefined(module, attribute.partition(".")[0], FilePath(str(spec.origin)))


def _found(name: str, folders: tuple[str, ...], parent: ModuleSpec | None) -> ModuleSpec | None:
    if parent is not None:
        return PathFinder.find_spec(name, list(parent.submodule_search_locations or []))
    found = PathFinder.find_spec(name, list(folders))
    with contextlib.suppress(ValueError):  # __main__
        found = found or importlib.util.find_spec(name)
    return found


def _undefined(module: str, name: str, file: FilePath) -> str:
    try:
        source = file.read_text(encoding="utf-8")
        table = symtable.symtable(source, str(file), "exec")
    except (OSError, ValueError):
        return ""  # an import says it better
    except SyntaxError as error:
        return f"module {module!r} is not Python: {error.msg} ({file}, line {error.lineno})"
    if any(word in source for word in ("import *", "__getattr__", "globals()", "exec(", "setattr")):
        return ""
    defined = {name for scope in _scopes(table) for name in _globals(scope)}
    if name in defined:
        return ""
    near = difflib.get_close_matches(name, sorted(defined), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"module {module!r} has no attribute {name!r}{hint}"


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _globals(scope: symtable.SymbolTable) -> Iterator[str]:
    """The names of the module that a scope binds."""
    for symbol in scope.get_symbols():
        binds = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
        if binds and (scope.get_type() == "module" or symbol.is_declared_global()):
            yield symbol.get_name()
