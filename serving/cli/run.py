"""`serving run`: serve an application until interrupted, deploying it again when its code changes.

Each deploy happens in a fresh interpreter, so that a changed module is really imported again and an
error in it ends that interpreter and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from serving import api, cluster, lifeline, progress
from serving.cli.options import Host, Port, http_options
from serving.exceptions import ClusterError

# How often a command that waits for changes looks whether the cluster still runs.
_LOOK_EVERY_MS = 500


def run(
    import_path: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="The application, a result of .bind().")
    ],
    name: Annotated[str, typer.Option(help="The application's name.")] = "default",
    route_prefix: Annotated[str, typer.Option(help="The HTTP path that it serves.")] = "/",
    host: Host = None,
    port: Port = None,
    app_dir: Annotated[
        Path, typer.Option(help="The folder to import from.", file_okay=False, exists=True)
    ] = Path("."),
    reload: Annotated[
        bool, typer.Option(help="Deploy again whenever a Python file in the folder changes.")
    ] = False,
) -> None:
    """Serve an application until Ctrl-C."""
    if cluster.find() is not None and (host or port is not None):
        raise ClusterError(
            "a cluster runs already and keeps its address: leave out --host and --port, or end it "
            "with `serving shutdown`"
        )
    with api.connected(http_options(host, port)) as address:
        deploy = [import_path, name, route_prefix, str(app_dir.absolute())]
        if _deploy(address, deploy) != 0:
            raise typer.Exit(1)
        changes = _changes(app_dir) if reload else None
        api.serve_until_interrupted(name, changes, lambda: _deploy(address, deploy))


def _deploy(address: str, arguments: list[str]) -> int:
    """Deploys in a fresh interpreter, which ends with this one; returns its exit code."""
    read, write = os.pipe()
    try:
        return subprocess.run(
            [sys.executable, "-P", "-m", "serving.cli.deploy", *arguments],
            env={
                **os.environ,
                cluster.ADDRESS_VARIABLE: address,
                lifeline.FD_VARIABLE: str(read),
            },
            pass_fds=(read,),
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for this process, which then ends that one.
            start_new_session=True,
            check=False,
        ).returncode
    finally:
        os.close(read)
        os.close(write)


def _changes(folder: Path) -> Iterator[bool]:
    """Yields True after Python files changed, and False now and then."""
    from watchfiles import PythonFilter, watch

    for changed in watch(
        folder,
        watch_filter=PythonFilter(),
        yield_on_timeout=True,
        rust_timeout=_LOOK_EVERY_MS,
        raise_interrupt=True,
    ):
        if changed:
            files = ", ".join(sorted({Path(path).name for _, path in changed}))
            progress.say(f"Changed: {files}")
        yield bool(changed)
