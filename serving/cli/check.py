"""`serving check`: find the mistakes of config files, without a cluster."""

from __future__ import annotations

import sys
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
from serving.names import servicer_function
from serving.rpc.methods import OPTION, load


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
    if imports:
        mistakes = _import_mistakes(read, app_dir, timeout_s)
    else:
        mistakes = list(_lookup_mistakes(read, app_dir))
    for line in read.told(mistakes):
        progress.say(line)
    if not mistakes:
        typer.echo(f"{file}: no mistakes")
    return not mistakes


def _lookup_mistakes(read: ReadConfig, app_dir: Path) -> Iterator[Mistake]:
    for index, path in enumerate(read.config.grpc_options.grpc_servicer_functions):
        target = ":".join(servicer_function(path))
        if problem := lookup.unknown_target(target, (str(app_dir.absolute()),)):
            yield Mistake(("grpc_options", OPTION, index), problem)
    for index, each in enumerate(read.config.applications):
        application = wanted(each, app_dir, read.base)
        for mistake in lookup.mistakes(application.application, application.folders):
            yield Mistake(("applications", index, *mistake.path), mistake.message)


def _import_mistakes(read: ReadConfig, app_dir: Path, timeout_s: float) -> list[Mistake]:
    answers_grpc = bool(read.config.grpc_options.grpc_servicer_functions)
    applications = [
        wanted(each, app_dir, read.base, answers_grpc=answers_grpc)
        for each in read.config.applications
    ]
    mistakes = [
        Mistake(("applications", index, *found.path), str(found))
        for index, found in enumerate(import_all(applications, timeout_s=timeout_s))
        if isinstance(found, ApplicationImportError)
    ]
    return [*_service_mistakes(read, app_dir), *mistakes]


def _service_mistakes(read: ReadConfig, app_dir: Path) -> Iterator[Mistake]:
    """Those of the functions of gRPC services, which are imported here, as by who starts a
    cluster."""
    sys.path.insert(0, str(app_dir.absolute()))
    known: set[str] = set()
    for index, path in enumerate(read.config.grpc_options.grpc_servicer_functions):
        try:
            added = load([path])
        except ValueError as error:
            problem = str(error).removeprefix(f"{OPTION}: ")
            yield Mistake(("grpc_options", OPTION, index), problem)
            continue
        for name in known & added.keys():
            problem = f"adds {name}, which one before it has added"
            yield Mistake(("grpc_options", OPTION, index), problem)
        known |= added.keys()
