"""`serving run`: serve an application until interrupted, deploying it again when its code changes.

Each deploy happens in a fresh interpreter, so that a changed module is really imported again and an
error in it ends that interpreter and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from serving import api, cluster, lifeline, progress
from serving.cli.changes import Changes
from serving.cli.options import HTTP_FLAGS, takes
from serving.config import ADDRESS_VARIABLE, HTTPOptions
from serving.exceptions import ClusterError


@takes(HTTPOptions, "http", {name: HTTP_FLAGS[name] for name in ("host", "port")})
def run(
    http: HTTPOptions,
    import_path: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="The application, a result of .bind().")
    ],
    name: Annotated[str, typer.Option(help="The application's name.")] = "default",
    route_prefix: Annotated[str, typer.Option(help="The HTTP path that it serves.")] = "/",
    app_dir: Annotated[
        Path, typer.Option(help="The folder to import from.", file_okay=False, exists=True)
    ] = Path("."),
    reload: Annotated[
        bool, typer.Option(help="Deploy again whenever a Python file in the folder changes.")
    ] = False,
) -> None:
    """Serve an application until Ctrl-C."""
    if cluster.find() is not None and http.model_fields_set:
        raise ClusterError(
            "a cluster runs already and keeps its address: leave out --host and --port, or end it "
            "with `serving shutdown`"
        )
    # From here on: what changes during the first deploy must not be missed.
    changes = Changes(app_dir) if reload else None
    with api.connected(http) as address, api.until_interrupted(name):
        deploy = _Deploy(address, name, [import_path, name, route_prefix, str(app_dir.absolute())])
        if deploy() != 0:
            raise typer.Exit(1)
        if changes is None:
            api.wait_for_end()
        while api.is_running():
            if changed := changes.wait():
                progress.say(f"Changed: {', '.join(changed)}")
                # A version of its own: only the replica imports what a handler imports when called.
                deploy(salt=str(time.time_ns()))
        raise ClusterError("the cluster ended by itself")


class _Deploy:
    """Deploys one application, as often as it is called."""

    def __init__(self, address: str, name: str, arguments: list[str]) -> None:
        self._address = address
        self._name = name
        self._arguments = arguments
        self._generation = ""

    def __call__(self, salt: str = "") -> int:
        """Deploys in a fresh interpreter, which ends with this one; returns its exit code."""
        lifeline_read, lifeline_write = os.pipe()
        told, tell = os.pipe()
        try:
            return subprocess.run(
                [
                    *(sys.executable, "-P", "-m", "serving.cli.deploy", *self._arguments),
                    *(salt, self._generation, str(tell)),
                ],
                env={
                    **os.environ,
                    ADDRESS_VARIABLE: self._address,
                    lifeline.FD_VARIABLE: str(lifeline_read),
                },
                pass_fds=(lifeline_read, tell),
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which then ends that one.
                start_new_session=True,
                check=False,
            ).returncode
        finally:
            for fd in (lifeline_read, lifeline_write, tell):
                os.close(fd)
            self._note_generation(told)

    def _note_generation(self, told: int) -> None:
        with open(told, "rb") as lines:
            os.set_blocking(told, False)  # whoever inherited the other end may keep it open
            generation = lines.read(32)
        if generation:
            self._generation = generation.decode().strip()
            api.note_deployed(self._name, int(self._generation))
