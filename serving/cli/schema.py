"""`serving schema`: the JSON Schema of config files."""

from __future__ import annotations

import typer

from serving.configfile.reference import json_schema_text


def schema() -> None:
    """Print the JSON Schema of config files, for editors."""
    typer.echo(json_schema_text(), nl=False)
