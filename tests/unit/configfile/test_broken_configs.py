"""Broken config files, each with what is said of it, word for word.

`python tests/unit/configfile/test_broken_configs.py` writes what is said now: read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.configfile.mistakes import ConfigError
from serving.configfile.validation import read

FOLDER = Path(__file__).parent / "broken_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


def said(file: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        read(file)
    return f"{raised.value}\n".replace(f"{FOLDER}/", "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_mistakes_of_a_config_are_told_word_for_word(file: Path) -> None:
    assert said(file) == file.with_suffix(".txt").read_text()


def test_there_are_fifty_broken_configs() -> None:
    assert len(FILES) >= 50


def test_every_mistake_has_its_place_in_the_file() -> None:
    for file in FILES:
        with pytest.raises(ConfigError) as raised:
            read(file)
        lines = file.read_bytes().decode(errors="replace").splitlines() or [""]
        for mistake in raised.value.mistakes:
            assert 1 <= mistake.line <= len(lines) + 1, file
            assert mistake.column >= 1, file


if __name__ == "__main__":
    for each in FILES:
        each.with_suffix(".txt").write_text(said(each))
