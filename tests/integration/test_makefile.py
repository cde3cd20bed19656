"""`make` on a machine whose Python does not do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_python_that_is_too_old_is_refused_before_anything_is_made(folder: Path) -> None:
    python = executable(folder / "old-python", "exit 1")

    done = make(folder, "demo", f"PYTHON={python}")

    assert done.returncode != 0
    assert f"{python} is not Python >= 3.11 with venv (set PYTHON=…)" in done.stderr
    assert not (folder / ".venv").exists()


def test_environment_of_a_python_that_is_too_old_is_made_anew(folder: Path) -> None:
    executable(folder / ".venv/bin/python", "exit 1")
    python = executable(
        folder / "new-python",
        'if [ "$1" = -m ]; then echo "$@" >> made; printf "#!/bin/sh\\n" > .venv/bin/python; fi',
    )
    executable(folder / ".venv/bin/pip", 'echo "$@" >> installed')

    done = make(folder, "demo", f"PYTHON={python}")

    assert done.returncode == 0, done.stderr
    assert (folder / "made").read_text() == "-m venv --clear .venv\n"
    assert "--editable ." in (folder / "installed").read_text()
    assert "dev" not in (folder / "installed").read_text()
