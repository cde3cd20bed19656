"""The mypy plugin when mypy remembers an earlier run. What it knows is told in tests/types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MODELS = """
import serving
from serving.handle import DeploymentHandle

@serving.deployment
class Model:
    def __init__(self, size: int) -> None: ...
    async def score(self, text: str) -> float: ...

handle: DeploymentHandle[Model]
"""
APP = """
import models
from typing import assert_type

async def use() -> None:
    models.Model.bind(1)
    assert_type(await models.handle.score.remote("x"), {expected})
    models.Model.bind("x")
    models.handle.scor
"""


WRONG = """
import models
import serving

serving.run(models.Model)
models.handle.remote("x")
models.handle.options(stream=True).score.remote("x")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where mypy remembers what it knows of the package."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "models.py").write_text(MODELS)
    (folder / "mypy.ini").write_text(
        f"[mypy]\nplugins = serving.mypy\nmypy_path = {REPOSITORY}\n"
        "disable_error_code = empty-body\n"
        "[mypy-serving.*]\nignore_errors = true\n"
    )
    return folder


def said(folder: Path, text: str) -> list[str]:
    """What mypy says of a module, in lines."""
    (folder / "app.py").write_text(text)
    finished = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "app.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert not finished.stderr
    return finished.stdout.splitlines()


def codes(folder: Path, expected: str) -> list[str]:
    """Those of the errors that mypy finds."""
    lines = said(folder, APP.format(expected=expected))
    return [line.rpartition("[")[2].rstrip("]") for line in lines if ": error:" in line]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_plugin_knows_of_modules_that_mypy_does_not_check_anew(folder: Path) -> None:
    assert codes(folder, "float") == ["arg-type", "attr-defined"]
    assert codes(folder, "str") == ["assert-type", "arg-type", "attr-defined"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_messages_say_what_to_do(folder: Path) -> None:
    lines = said(folder, WRONG)

    assert (
        "app.py:5: error: a deployment that is not bound: run what its bind(...) gives" in lines[0]
    )
    cure = '"Model" has no "__call__": call one of its methods, handle.method.remote(...)'
    assert f"app.py:6: note: {cure}" in lines
    assert "app.py:7: note: It is no generator: call it without stream=True" in lines
