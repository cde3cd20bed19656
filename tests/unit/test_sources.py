"""Modules that are imported from what a version keeps, whatever their files hold by then."""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import linecache
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serving.code import fingerprint, sources

Kept = Callable[..., None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path`, whose modules are forgotten with the test."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield folder
    forget(folder)


@pytest.fixture
def kept_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


@pytest.fixture
def keep(project: Path, kept_dir: Path) -> Kept:
    """Imports modules, keeps them as a version does, and is then the process of a replica."""

    def keep(*names: str, shipped: tuple[str, ...] = ()) -> None:
        for name in names:
            importlib.import_module(name)
        (kept_dir / sources.FILE).write_bytes(sources.as_file(sources.loaded()))
        forget(project)
        sources.install(str(kept_dir), shipped)

    return keep


def forget(folder: Path) -> None:
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        if any(place.startswith(str(folder)) for place in places):
            del sys.modules[name]
    importlib.invalidate_caches()
    for file in [file for file in linecache.cache if file.startswith(str(folder))]:
        del linecache.cache[file]


def write(file: Path, text: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)


def imported(name: str) -> Any:
    return importlib.import_module(name)


def test_module_is_what_it_was_whatever_its_file_holds(project: Path, keep: Kept) -> None:
    file = project / "price.py"
    write(file, "FACTOR = 2\n")
    keep("price")
    write(file, "FACTOR = (\n")
    assert imported("price").FACTOR == 2
    assert imported("price").__file__ == str(file)
    assert importlib.reload(imported("price")).FACTOR == 2

    file.unlink()
    del sys.modules["price"]
    assert imported("price").FACTOR == 2


def test_package_finds_the_rest_of_itself_on_the_disk(project: Path, keep: Kept) -> None:
    write(project / "shop/__init__.py", "VERSION = 1\n")
    write(project / "shop/models/__init__.py", "from . import deep\n")
    write(project / "shop/models/deep.py", "X = 1\n")
    write(project / "shop/later.py", "X = 1\n")
    write(project / "shop/words.txt", "1")
    keep("shop.models")
    for name in ("shop/__init__.py", "shop/models/deep.py", "shop/later.py"):
        write(project / name, "X = 'edited'\n")
    write(project / "shop/words.txt", "2")

    assert imported("shop").VERSION == 1
    assert imported("shop").__path__ == [str(project / "shop")]
    assert imported("shop.models.deep").X == 1
    assert imported("shop.later").X == "edited"
    assert (Path(imported("shop").__file__).parent / "words.txt").read_text() == "2"
    assert pkgutil.get_data("shop", "words.txt") == b"2"
    assert (importlib.resources.files("shop") / "words.txt").read_text() == "2"
    found = {module.name for module in pkgutil.iter_modules(imported("shop").__path__)}
    assert found == {"models", "later"}


def test_namespace_package_stays_one(project: Path, keep: Kept) -> None:
    write(project / "space/one.py", "X = 1\n")
    write(project / "space/two.py", "X = 1\n")
    keep("space.one")
    write(project / "space/one.py", "X = 2\n")
    write(project / "space/two.py", "X = 2\n")
    assert imported("space.one").X == 1
    assert imported("space.two").X == 2
    assert imported("space").__file__ is None


def test_traceback_and_source_are_those_that_were_deployed(project: Path, keep: Kept) -> None:
    file = project / "raises.py"
    write(file, "def fail():\n    return 1 / 0  # deployed\n")
    keep("raises")
    write(file, "# edited\n" * 3)
    with pytest.raises(ZeroDivisionError) as raised:
        imported("raises").fail()
    linecache.checkcache()
    told = "".join(traceback.format_exception(raised.value))
    assert f'File "{file}", line 2, in fail\n    return 1 / 0  # deployed\n' in told
    assert inspect.getsource(imported("raises").fail).endswith("# deployed\n")


def test_error_of_an_import_shows_no_frame_of_ours(
    project: Path, keep: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project / "broken.py", "import os\nassert 'BROKEN' not in os.environ\n")
    keep("broken")
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(AssertionError) as raised:
        imported("broken")
    assert sources.__file__ not in {frame.filename for frame in traceback.extract_tb(raised.tb)}


def test_compiled_file_of_the_disk_is_neither_read_nor_written(
    project: Path, kept_dir: Path, keep: Kept
) -> None:
    """One of the same time and length as the kept source would be taken for its own."""
    file = project / "twin.py"
    write(file, "X = 1\n")
    os.utime(file, (1, 1))
    keep("twin")
    write(file, "X = 2\n")
    os.utime(file, (1, 1))
    compiled = Path(importlib.util.cache_from_source(str(file)))
    compiled.unlink(missing_ok=True)

    assert imported("twin").X == 1
    assert not compiled.exists()
    (cached,) = kept_dir.glob("twin.*.pyc")
    written = cached.stat().st_mtime_ns
    forget(project)
    assert imported("twin").X == 1
    assert cached.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("# -*- coding: latin-1 -*-\nX = 'é'\n".encode("latin-1"), id="encoding"),
        pytest.param("\ufeffX = 'é'\r\n".encode(), id="mark and line ends"),
    ],
)
def test_text_is_kept_byte_by_byte(project: Path, keep: Kept, text: bytes) -> None:
    write(project / "spelled.py", text)
    keep("spelled")
    (project / "spelled.py").unlink()
    assert imported("spelled").X == "é"


def test_what_a_runtime_env_brings_wins(project: Path, keep: Kept, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    for folder, text in ((project, "X = 'kept'\n"), (shipped, "X = 'shipped'\n")):
        write(folder / "whole/__init__.py", text)
        write(folder / "whole/part.py", text)
        write(folder / "space/part.py", text)
    write(project / "space/other.py", "X = 'kept'\n")
    write(project / "whole/missing.py", "")
    keep("whole.part", "whole.missing", "space.part", "space.other", shipped=(str(shipped),))
    sys.path.insert(0, str(shipped))

    assert imported("whole").X == "shipped"
    assert imported("whole.part").X == "shipped"
    assert imported("space.part").X == "shipped"
    assert imported("space.other").X == "kept"
    with pytest.raises(ModuleNotFoundError):
        imported("whole.missing")
    forget(shipped)


def test_only_what_python_itself_loads_from_a_source_file_is_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project / "plain.py", "")
    plain = imported("plain")
    alias, by_hand, extension = plain, ModuleType("by_hand"), ModuleType("extension")
    by_hand.__file__ = plain.__file__
    extension.__file__ = str(project / "extension.so")
    write(project / "extension.so", b"\x7fELF")
    for name, module in (("alias", alias), ("by_hand", by_hand), ("extension", extension)):
        monkeypatch.setitem(sys.modules, name, module)

    modules = {module.name: module for module in sources.loaded()}

    kept = {name for name, module in modules.items() if module.is_kept}
    assert "plain" in kept
    assert kept.isdisjoint({"alias", "by_hand", "extension", "__main__", "sys", "pytest"})
    assert {"alias", "by_hand", "extension"} < modules.keys(), "they count for the version"
    assert "pytest" not in modules


def test_fingerprint_is_that_of_the_modules_that_are_kept(project: Path) -> None:
    write(project / "counted.py", "X = 1\n")
    imported("counted")
    modules = sources.loaded()
    before = fingerprint([], modules)
    assert fingerprint([]) == before
    write(project / "counted.py", "X = 2\n")
    assert fingerprint([], modules) == before
    assert fingerprint([]) != before


def test_nothing_is_kept_where_nothing_is_imported() -> None:
    assert sources.as_file([]) == b""
