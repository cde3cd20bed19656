"""Writes what is made of the schema of config files: `python docs/make_config.py`.

That is `config.schema.json`, for editors, and the tables of `config.md`.
"""

from __future__ import annotations

from pathlib import Path

from serving.configfile.reference import json_schema_text, reference_text

DOCS = Path(__file__).parent
MANUAL = DOCS / "config.md"
SCHEMA = DOCS / "config.schema.json"
MARK = "<!-- From here on by docs/make_config.py -->\n"


def manual_text() -> str:
    """The manual as it ought to be."""
    written, mark, _ = MANUAL.read_text().partition(MARK)
    return f"{written}{mark or MARK}\n{reference_text()}"


if __name__ == "__main__":
    MANUAL.write_text(manual_text())
    SCHEMA.write_text(json_schema_text())
