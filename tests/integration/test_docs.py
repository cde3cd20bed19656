"""Runs the Python blocks of docs/ (those of the README run beside the examples).

The blocks of one `##` section make one script, as docs/http.md tells its readers. The lines of a
`text` block in the same section must appear in what the script prints.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Section(NamedTuple):
    name: str
    script: str
    expected_output: list[str]


def sections(page: Path) -> list[Section]:
    found = []
    for part in re.split(r"^##? ", page.read_text(), flags=re.MULTILINE):
        blocks = [match.group("language", "code") for match in BLOCK.finditer(part)]
        if script := "\n\n".join(code for language, code in blocks if language == "python"):
            output = "".join(code for language, code in blocks if language == "text")
            heading = part.split("\n", 1)[0]
            found.append(Section(f"{page.stem}: {heading}", script, output.splitlines()))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "section", [section for page in PAGES for section in sections(page)], ids=lambda s: s.name
)
def test_section_runs_as_a_script(section: Section, tmp_path: Path) -> None:
    port = str(free_port())
    script = tmp_path / "script.py"
    script.write_text(section.script.replace("8000", port))

    finished = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "SERVING_HTTP_PORT": port, "SERVING_STATE_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    for line in section.expected_output:
        assert line in finished.stdout  # several processes write to it: line ends may mix
