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


def check(folder: Path, expected: str) -> list[str]:
    """The errors that mypy finds, each from the code of its line on."""
    (folder / "app.py").write_text(APP.format(expected=expected))
    finished = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "app.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert not finished.stderr
    lines = finished.stdout.splitlines()
    return [line.rpartition("[")[2].rstrip("]") for line in lines if ": error:" in line]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_plugin_knows_of_modules_that_mypy_does_not_check_anew(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nplugins = serving.mypy\nmypy_path = {REPOSITORY}\n"
        "disable_error_code = empty-body\n"
        "[mypy-serving.*]\nignore_errors = true\n"
    )

    assert check(tmp_path, "float") == ["arg-type", "attr-defined"]
    assert check(tmp_path, "str") == ["assert-type", "arg-type", "attr-defined"]
