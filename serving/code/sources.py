"""The modules of the user's, as they were when they were deployed.

A version keeps the source of those that were imported where it was deployed. Its replicas import
that, whatever the files hold by then: one that takes another's place runs the same code, and so
does a version that is returned to. All else about a module stays as it was: its `__file__`, and a
package's `__path__`, so that what lies beside it is found on the disk.
"""

from __future__ import annotations

import importlib.util
import io
import json
import linecache
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.code import references

FILE = "modules.json"
"""In a folder of kept modules: what they are. Beside it lies what they were compiled to."""


@dataclass(frozen=True, order=True)
class Module:
    """One that is loaded in this process."""

    name: str
    file: str
    content: bytes
    is_package: bool
    is_kept: bool
    """It is what Python itself makes of a source file; no extension, and no other importer's."""


def loaded() -> list[Module]:
    """The modules of the user's in this process: those neither of the standard library nor in
    site-packages. Their files are read now."""
    return sorted(
        _module(name, module, file)
        for name, module in list(sys.modules.items())
        if (file := _file_of(name, module)) is not None
    )


def _file_of(name: str, module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    if name == "__main__" or not isinstance(file, str) or references.is_library_file(file):
        return None
    return file if os.path.isfile(file) else None


def _module(name: str, module: ModuleType, file: str) -> Module:
    spec = getattr(module, "__spec__", None)
    return Module(
        name,
        file,
        Path(file).read_bytes(),
        is_package=getattr(spec, "submodule_search_locations", None) is not None,
        is_kept=spec is not None
        and type(spec.loader) is SourceFileLoader
        and (spec.name, spec.origin) == (name, file),
    )


def as_file(modules: Iterable[Module]) -> bytes:
    """What `FILE` is to hold for a version to keep these; nothing where it needs none."""
    kept = {
        module.name: {
            "file": module.file,
            "is_package": module.is_package,
            # Whatever its encoding is: the bytes are what counts.
            "text": module.content.decode("utf-8", "surrogateescape"),
        }
        for module in modules
        if module.is_kept
    }
    return json.dumps(kept).encode() if kept else b""


def install(folder: str, shipped: Sequence[str]) -> MetaPathFinder:
    """Has this process import the modules that are kept in a folder. Raises OSError.

    What is in the folders `shipped`, those of a runtime_env, wins over them: it was deployed, too.
    """
    kept = json.loads((Path(folder) / FILE).read_bytes())
    finder = _Finder(kept, folder, shipped)
    sys.meta_path.insert(0, finder)
    return finder


class _Finder(MetaPathFinder):
    """Finds what is kept where the import system would find it; all else is for those after it."""

    def __init__(
        self, kept: Mapping[str, Mapping[str, Any]], folder: str, shipped: Sequence[str]
    ) -> None:
        self._kept = kept
        self._folder = folder
        self._shipped = shipped

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        kept = self._kept.get(fullname)
        if kept is None or self._is_shipped(fullname, path):
            return None
        file, is_package = kept["file"], kept["is_package"]
        own_folder = os.path.dirname(file)
        found_in = os.path.dirname(own_folder) if is_package else own_folder
        if path is not None and found_in not in path:
            return None  # its package is another one here, that of a runtime_env
        text = kept["text"].encode("utf-8", "surrogateescape")
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_Loader(fullname, file, text, self._folder),
            submodule_search_locations=[own_folder] if is_package else None,
        )

    def _is_shipped(self, fullname: str, path: Sequence[str] | None) -> bool:
        folders = self._shipped
        if path is not None:
            above = tuple(f"{folder}{os.sep}" for folder in folders)
            folders = [each for each in path if f"{each}{os.sep}".startswith(above)]
        found = PathFinder.find_spec(fullname, folders) if folders else None
        return found is not None and found.loader is not None  # a namespace has none


class _Loader(SourceFileLoader):
    """Loads a module from its kept text instead of its file."""

    def __init__(self, name: str, file: str, text: bytes, folder: str) -> None:
        super().__init__(name, file)
        self._text = text
        self._folder = folder

    def create_module(self, spec: ModuleSpec) -> None:
        """A module as any other. Tracebacks are to show its lines as they were."""
        lines = io.StringIO(importlib.util.decode_source(self._text)).readlines()
        # Without a time it is never compared with the file.
        linecache.cache[self.path] = (len(self._text), None, lines, self.path)

    def get_data(self, path: str) -> bytes:
        return self._text if path == self.path else super().get_data(self._compiled(path))

    def path_stats(self, path: str) -> Mapping[str, Any]:
        if path != self.path:
            return super().path_stats(path)
        return {"mtime": 0, "size": len(self._text)}  # the folder's content never changes

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        super().set_data(self._compiled(path), data, _mode=_mode)

    def _compiled(self, path: str) -> str:
        """Where Python would compile to a file in `__pycache__`, it is one in the folder. Data
        beside the module are where they are."""
        if path != importlib.util.cache_from_source(self.path):
            return path
        tag = os.path.basename(path).removeprefix(Path(self.path).stem)
        return os.path.join(self._folder, f"{self.name}{tag}")
