"""`serving run`: serve an application or a config until interrupted, deploying it again when its
code changes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Protocol

import typer

from serving import api, cluster, progress
from serving.cli.changes import Changes
from serving.cli.config_files import is_config, read_config, report
from serving.cli.exit_codes import WrongArgumentError, told
from serving.cli.options import GRPC_FLAGS, HTTP_FLAGS, checked_import_path, settings, takes
from serving.config import HTTPOptions, LoggingConfig, gRPCOptions
from serving.configfile.deploying import refusals_told
from serving.configfile.importing import Wanted, import_one
from serving.exceptions import ClusterError, ServingError

_GRPC_FLAGS = ("host", "port", "grpc_servicer_functions", "enable_reflection")


@takes(HTTPOptions, "http", {name: HTTP_FLAGS[name] for name in ("host", "port")})
@takes(gRPCOptions, "grpc", {name: GRPC_FLAGS[name] for name in _GRPC_FLAGS})
def run(
    http: HTTPOptions,
    grpc: gRPCOptions,
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP|CONFIG.yaml",
            help="The application, a result of .bind() or a function that returns one; or a "
            "config file.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The application's name.", show_default="default")
    ] = None,
    route_prefix: Annotated[
        str | None, typer.Option(help="The HTTP path that it serves.", show_default="/")
    ] = None,
    app_dir: Annotated[
        Path, typer.Option(help="The folder to import from.", file_okay=False, exists=True)
    ] = Path("."),
    reload: Annotated[
        bool,
        typer.Option(
            help="Deploy again whenever a Python file in the folder, or the config, changes."
        ),
    ] = False,
) -> None:
    """Serve an application, or all of a config file, until Ctrl-C."""
    if cluster.find() is not None and (http.model_fields_set or grpc.model_fields_set):
        raise ClusterError(
            "a cluster runs already and keeps its address: leave out --host, --port and those of "
            "gRPC, or end it with `serving shutdown`"
        )
    if not is_config(target):
        served: _Served = _Application(
            checked_import_path(target), name or "default", route_prefix or "/", app_dir
        )
    elif name is None and route_prefix is None:
        served = _ConfigFile(Path(target), app_dir)
    else:
        raise WrongArgumentError(
            "--name and --route-prefix are for MODULE:APP: the config has its own"
        )
    # From here on: what changes during the first deploy must not be missed.
    changes = Changes(app_dir, served.file) if reload else None
    options = settings(app_dir, *served.options(http, grpc), flags=grpc.model_fields_set)
    with api.connected(options), api.until_interrupted(name or "default"):
        served.deploy()
        if changes is None:
            api.wait_for_end()
        while api.is_running():
            if changed := changes.wait():
                progress.say(f"Changed: {', '.join(changed)}")
                _deploy_again(served)
        raise ClusterError("the cluster ended by itself")


def _deploy_again(served: _Served) -> None:
    try:
        # A version of its own: only the replica imports what a handler imports when called.
        served.deploy(salt=str(time.time_ns()))
    except ServingError as error:
        progress.say(told(error))


class _Served(Protocol):
    """What is served."""

    @property
    def file(self) -> Path | None:
        """What to watch beside Python files."""
        ...

    def options(
        self, http: HTTPOptions, grpc: gRPCOptions
    ) -> tuple[HTTPOptions, LoggingConfig, gRPCOptions]:
        """Of the cluster that is started for it; what is given here wins."""
        ...

    def deploy(self, salt: str = "") -> None:
        """Raises ServingError."""
        ...


class _Application:
    """One application, by its import path."""

    file = None

    def __init__(self, import_path: str, name: str, route_prefix: str, app_dir: Path) -> None:
        self._section = {"name": name, "route_prefix": route_prefix, "import_path": import_path}
        self._folders = (str(app_dir.absolute()),)

    def options(
        self, http: HTTPOptions, grpc: gRPCOptions
    ) -> tuple[HTTPOptions, LoggingConfig, gRPCOptions]:
        return http, LoggingConfig(), grpc

    def deploy(self, salt: str = "") -> None:
        answers_grpc = api.cluster_status().grpc_port != 0
        wanted = Wanted(self._section, self._folders, salt, answers_grpc)
        found = import_one(wanted, timeout_s=math.inf)
        found.spec.config_json = json.dumps(self._section)
        with refusals_told():
            api.deploy(found.spec)


class _ConfigFile:
    """All that a config file says."""

    def __init__(self, file: Path, app_dir: Path) -> None:
        if cluster.find() is not None:
            raise ClusterError(
                f"a cluster runs already: `serving deploy {file}` makes it run this, and delete "
                "all else"
            )
        self.file = file
        self._app_dir = app_dir

    def options(
        self, http: HTTPOptions, grpc: gRPCOptions
    ) -> tuple[HTTPOptions, LoggingConfig, gRPCOptions]:
        return read_config(self.file).config.cluster_options(
            http=http.model_dump(exclude_unset=True), grpc=grpc.model_dump(exclude_unset=True)
        )

    def deploy(self, salt: str = "") -> None:
        read = read_config(self.file)
        outcome = api.deploy_config(
            read.config,
            app_dir=self._app_dir,
            base=read.base,
            timeout_s=math.inf,
            salt=salt,
        )
        failures = report(read, outcome)
        if failures and not outcome.serves:
            raise failures[0]
        for failure in failures:
            progress.say(f"serving: {failure}")
