"""`serving check`: find the mistakes of config files, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from serving import progress
from serving.cli.config_files import ReadConfig, read_config
from serving.cli.deploy import AppDir
from serving.cli.exit_codes import ExitCode, told
from serving.configfile import lookup
from serving.configfile.importing import ApplicationImportError, import_all, wanted
from serving.configfile.mistakes import ConfigError, Mistake


def check(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="The config files.")],
    imports: Annotated[
        bool, typer.Option("--import", help="Import the applications, too, as a deploy does.")
    ] = False,
    app_dir: AppDir = Path("."),
    timeout_s: Annotated[float, typer.Option(min=0.0, help="Seconds for a file's imports.")] = 600,
) -> None:
    """Find the mistakes of config files, without a cluster. Exit code 2 where there are some."""
    are_right = [_check(config, imports, app_dir, timeout_s) for config in configs]
    if not all(are_right):
        raise typer.Exit(ExitCode.USAGE)


def _check(file: Path, imports: bool, app_dir: Path, timeout_s: float) -> bool:
    try:
        read = read_config(file)
    except ConfigError as error:
        progress.say(told(error))
        return False
    mistakes = list((_import_mistakes if imports else _lookup_mistakes)(read, app_dir, timeout_s))
    for line in read.told(mistakes):
        progress.say(line)
    if not mistakes:
        typer.echo(f"{file}: no mistakes")
    return not mistakes


def _lookup_mistakes(read: ReadConfig, app_dir: Path, _timeout_s: float) -> Iterator[Mistake]:
    for index, each in enumerate(read.config.applications):
        application = wanted(each, app_dir, read.base)
        for mistake in lookup.mistakes(application.application, application.folders):
            yield Mistake(("applications", index, *mistake.path), mistake.message)


def _import_mistakes(read: ReadConfig, app_dir: Path, timeout_s: float) -> list[Mistake]:
    applications = [wanted(each, app_dir, read.base) for each in read.config.applications]
    return [
        Mistake(("applications", index, *found.path), str(found))
        for index, found in enumerate(import_all(applications, timeout_s=timeout_s))
        if isinstance(found, ApplicationImportError)
    ]
