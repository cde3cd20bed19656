"""`serving deploy`: make the running cluster run what a config file says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving import api, cluster, progress
from serving.cli.config_files import differences, read_config, report
from serving.cli.exit_codes import ExitCode
from serving.exceptions import ClusterError, StillDeployingError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The config file; '-': stdin.")]
AppDir = Annotated[
    Path, typer.Option(help="The folder to import from.", file_okay=False, exists=True)
]


def deploy(
    config: ConfigFile,
    app_dir: AppDir = Path("."),
    wait: Annotated[bool, typer.Option(help="Wait until all of it serves.")] = True,
    timeout_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds to import, and to wait, at most.")
    ] = 600.0,
) -> None:
    """Make the running cluster serve what a config file says, and nothing else."""
    read = read_config(config)
    if cluster.find() is None:
        raise ClusterError(cluster.NO_CLUSTER)
    for line in differences(read, api.cluster_status().options_json):
        progress.say(line)
    outcome = api.deploy_config(
        read.config, app_dir=app_dir, base=read.base, wait=wait, timeout_s=timeout_s
    )
    failures = report(read, outcome)
    for failure in failures:
        progress.say(f"serving: {failure}")
    if failures:
        in_time = [each for each in failures if not isinstance(each, StillDeployingError)]
        raise typer.Exit(ExitCode.DEPLOY_FAILED if in_time else ExitCode.TIMEOUT)
