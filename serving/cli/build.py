"""`serving build`: write the config file of applications."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from serving.cli.deploy import AppDir
from serving.cli.options import checked_import_path
from serving.configfile.importing import ApplicationImportError, Wanted, import_all
from serving.configfile.writing import built_text
from serving.exceptions import ClusterError


def build(
    import_paths: Annotated[
        list[str], typer.Argument(metavar="MODULE:APP...", help="The applications.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write.", show_default="stdout"),
    ] = None,
    app_dir: AppDir = Path("."),
) -> None:
    """Write the config file of applications, with the options that their code gives."""
    folders = (str(app_dir.absolute()),)
    sections = _sections(list(map(checked_import_path, import_paths)))
    imported = []
    # Whether it can be reached there is for the cluster to say that it is deployed to.
    wanted = (Wanted(each, folders, answers_grpc=True) for each in sections)
    for found in import_all(wanted, timeout_s=math.inf):
        if isinstance(found, ApplicationImportError):
            raise found
        imported.append(found.given)
    text = built_text(list(zip(sections, imported, strict=True)))
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ClusterError(f"{output} cannot be written: {error.strerror}") from None
    typer.echo(f"Written: {output}; `serving deploy {output}` deploys it")


def _sections(import_paths: list[str]) -> list[dict[str, str]]:
    """One application has the names that it has with `serving run`; several are told apart."""
    if len(import_paths) == 1:
        return [{"name": "default", "route_prefix": "/", "import_path": import_paths[0]}]
    return [
        {"name": f"app{number}", "route_prefix": f"/app{number}", "import_path": import_path}
        for number, import_path in enumerate(import_paths, 1)
    ]
