"""What is found wrong with an application without running its code."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing

from serving.cli import app
from serving.configfile.lookup import missing_files, unknown_target

MODULE = """
import unheard_of
from . import other
raise SystemExit("this file must not run")
application = 1
if application:
    conditional: int = 2
def function():
    global made_in_a_function
    made_in_a_function = local = 3
class Owner:
    inner = 4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0")
    (package / "main.py").write_text(MODULE)
    (package / "star.py").write_text("from unheard_of import *")
    (package / "broken.py").write_text("\ndef (:")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "main.py").write_text("app = 1")
    return tmp_path


@pytest.mark.parametrize(
    ("import_path", "problem"),
    [
        ("shop.main:application", ""),
        ("shop.main:conditional", ""),
        ("shop.main:made_in_a_function", ""),
        ("shop.main:Owner.inner", ""),
        ("shop.main:other", ""),
        ("shop.star:anything", ""),
        ("bare.main:app", ""),
        ("json:dumps", ""),
        ("sys:exit", ""),
        ("__main__:app", "no module '__main__' in "),
        ("shop.main:aplication", "'shop.main' has no attribute 'aplication'; did you mean 'appl"),
        ("shop.main:local", "module 'shop.main' has no attribute 'local'"),
        ("shop.broken:app", "module 'shop.broken' is not Python: "),
        ("shop.nothing:app", "no module 'shop.nothing' in "),
        ("shop.main.deeper:app", "no module 'shop.main.deeper' in "),
        ("nothing_of_the_sort:app", "no module 'nothing_of_the_sort' in "),
    ],
)
def test_import_path_is_looked_up_in_files(folder: Path, import_path: str, problem: str) -> None:
    found = unknown_target(import_path, (str(folder),))
    assert problem in found
    assert bool(problem) == bool(found)


def test_files_that_are_not_there_are_told_with_their_places(tmp_path: Path) -> None:
    here, gone = str(tmp_path), str(tmp_path / "gone")
    application = {
        "runtime_env": {"working_dir": gone, "py_modules": [here, gone]},
        "deployments": [
            {"name": "A"},
            {"name": "B", "ray_actor_options": {"runtime_env": {"working_dir": gone}}},
        ],
    }
    assert [str(found) for found in missing_files(application)] == [
        f"runtime_env.working_dir: there is no {gone}",
        f"runtime_env.py_modules[1]: there is no {gone}",
        f"deployments[1].ray_actor_options.runtime_env.working_dir: there is no {gone}",
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("import_path: shop.main:app", ":2:16: applications[0].import_path: module 'shop.main' "),
        (
            "import_path: shop.main:application\n  runtime_env:\n    working_dir: gone",
            ":4:18: applications[0].runtime_env.working_dir: there is no {folder}/gone",
        ),
        ("import_path: shop.main:application", ": no mistakes"),
    ],
    ids=["attribute", "working_dir", "right"],
)
def test_check_looks_up_files_and_runs_none(folder: Path, lines: str, told: str) -> None:
    config = folder / "config.yaml"
    config.write_text(f"applications:\n- {lines}\n")
    arguments = ["check", str(config), "--app-dir", str(folder)]
    finished = typer.testing.CliRunner().invoke(app, arguments)
    assert f"{config}{told.format(folder=folder)}" in finished.output
    assert finished.exit_code == (0 if "no mistakes" in told else 2)
