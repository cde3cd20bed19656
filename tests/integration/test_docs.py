"""Runs the Python blocks of docs/ (those of the README run beside the examples).

The blocks of one `##` section make one script, as docs/http.md tells its readers. The lines of a
`text` block in the same section must appear in what the script prints. Beside the scripts of a page
lie its `proto` blocks, and what the page's own command makes of them; a section that starts the
shared cluster in a `console` block has it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PROTO_NAME = re.compile(r"// (\w+\.proto)\n")
BIN = Path(sys.executable).parent


class Section(NamedTuple):
    page: Path
    heading: str
    script: str
    expected_output: list[str]
    commands: list[str]

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.heading}"


def blocks(text: str, language: str) -> list[str]:
    return [match["code"] for match in BLOCK.finditer(text) if match["language"] == language]


def commands(text: str) -> list[str]:
    lines = "".join(blocks(text, "console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def sections(page: Path) -> list[Section]:
    found = []
    for part in re.split(r"^##? ", page.read_text(), flags=re.MULTILINE):
        if script := "\n\n".join(blocks(part, "python")):
            output = "".join(blocks(part, "text")).splitlines()
            heading = part.split("\n", 1)[0]
            found.append(Section(page, heading, script, output, commands(part)))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def generate(page: Path, folder: Path) -> None:
    """Puts the page's .proto files into the folder, and what the page makes of them."""
    text = page.read_text()
    for proto in blocks(text, "proto"):
        name = PROTO_NAME.match(proto)
        assert name, proto
        (folder / name[1]).write_text(proto)
        for command in commands(text):
            if name[1] in command and command.startswith("python -m grpc_tools.protoc "):
                arguments = shlex.split(command)[1:]
                subprocess.run([sys.executable, *arguments], cwd=folder, check=True, timeout=50)


@contextlib.contextmanager
def cluster(section: Section, folder: Path, env: dict[str, str], grpc_port: str) -> Iterator[None]:
    """The shared one, where the section starts it and ends it."""
    starts = [each for each in section.commands if each.startswith("serving start ")]
    if not (starts and "serving shutdown" in section.commands):
        yield
        return
    arguments = shlex.split(starts[0].replace("9000", grpc_port))[1:]
    subprocess.run([BIN / "serving", *arguments], cwd=folder, env=env, check=True, timeout=50)
    try:
        yield
    finally:
        subprocess.run([BIN / "serving", "shutdown"], env=env, check=True, timeout=50)


@pytest.mark.parametrize(
    "section", [section for page in PAGES for section in sections(page)], ids=str
)
def test_section_runs_as_a_script(section: Section, tmp_path: Path) -> None:
    port, grpc_port = str(free_port()), str(free_port())
    script = tmp_path / "script.py"
    script.write_text(section.script.replace("8000", port).replace("9000", grpc_port))
    env = {
        **os.environ,
        "SERVING_HTTP_PORT": port,
        "SERVING_ADMIN_PORT": "0",
        "SERVING_STATE_DIR": str(tmp_path),
    }
    generate(section.page, tmp_path)

    with cluster(section, tmp_path, env, grpc_port):
        finished = subprocess.run(
            [sys.executable, script],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    for line in section.expected_output:
        assert line in finished.stdout  # several processes write to it: line ends may mix
