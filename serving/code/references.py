"""What a fresh process can import, and finds to be this very object."""

from __future__ import annotations

import importlib
import site
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any


def unwrap(obj: Any) -> Any:
    """What a `Deployment` wraps; anything else as it is."""
    wrapped = None if isinstance(obj, type) else getattr(obj, "func_or_class", None)
    return obj if wrapped is None else wrapped


def path_of(obj: object) -> str | None:
    """`"package.module:Outer.Inner"`, if importing that in another process gives this object."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not importable(module):
        return None
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = unwrap(getattr(found, part, None))
    return f"{module}:{name}" if found is obj else None


def name_of(obj: object) -> str:
    """The import path of code, for people; of what cannot be imported what it would be."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    return f"{module}:{name}" if module and name else repr(obj)


def constant_path(obj: object) -> str | None:
    """The like for an instance that the module of its class has under a name of its own."""
    module = type(obj).__module__
    if not importable(module):
        return None
    names = (name for name, value in vars(sys.modules[module]).items() if value is obj)
    name = next(names, None)
    return None if name is None else f"{module}:{name}"


def resolve(path: str) -> Any:
    """The object that `path_of` gave `path` for.

    Raises ImportError where the module cannot be imported or has no such attribute.
    """
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        try:
            found = unwrap(getattr(found, part))
        except AttributeError:
            raise ImportError(f"module {module!r} has no {name!r}", name=module) from None
    return found


def importable(name: str) -> bool:
    """Whether another process with the same `sys.path` can import this loaded module.

    A module without a spec was made by hand, and `__main__` is another one there.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if spec is None or name == "__main__" or spec.name == "__main__":
        return False
    top = name.partition(".")[0]
    origin = getattr(getattr(sys.modules.get(top), "__spec__", None), "origin", None)
    if top in sys.stdlib_module_names or (origin is not None and is_library_file(origin)):
        return True
    return top in sys.modules and _findable(top, origin, tuple(sys.path))


@lru_cache(maxsize=8192)
def is_library_file(path: str) -> bool:
    """Whether a file is of the standard library, of an installed package, or of this one."""
    return path.startswith(_library_folders())


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    return tuple({f"{spelled}/" for f in folders for spelled in (f, str(Path(f).resolve()))})


@lru_cache(maxsize=1024)
def _findable(top: str, origin: str | None, _sys_path: tuple[str, ...]) -> bool:
    """Whether the import system finds a top-level module at `origin`, where it was found before."""
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        found = find_spec(top, None) if find_spec is not None else None
        if found is not None:
            return bool(found.origin == origin)
    return False


def module_globals(name: str) -> dict[str, Any]:
    """The namespace of a module, imported if need be."""
    return vars(importlib.import_module(name))


def lives_in_module(function: FunctionType) -> str | None:
    """The importable module whose namespace the function's globals are."""
    name = function.__globals__.get("__name__")
    if not isinstance(name, str) or not importable(name):
        return None
    return name if vars(sys.modules[name]) is function.__globals__ else None
