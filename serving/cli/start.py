"""`serving start`: the cluster that stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from serving import api, cluster
from serving.cli.config_files import read_config
from serving.cli.options import (
    ADMIN_FLAGS,
    GRPC_FLAGS,
    HTTP_FLAGS,
    LOGGING_FLAGS,
    NODE_FLAGS,
    settings,
    takes,
)
from serving.config import (
    ADMIN_TOKEN_VARIABLE,
    AdminOptions,
    HTTPOptions,
    LoggingConfig,
    NodeOptions,
    gRPCOptions,
)
from serving.exceptions import ClusterError


@takes(HTTPOptions, "http", HTTP_FLAGS)
@takes(gRPCOptions, "grpc", GRPC_FLAGS)
@takes(AdminOptions, "admin", ADMIN_FLAGS)
@takes(LoggingConfig, "logging", LOGGING_FLAGS)
@takes(NodeOptions, "node", NODE_FLAGS)
def start(
    http: HTTPOptions,
    grpc: gRPCOptions,
    admin: AdminOptions,
    logging: LoggingConfig,
    node: NodeOptions,
    config: Annotated[
        Path | None,
        typer.Option(help="A config file, for its options of HTTP, gRPC and logging; flags win."),
    ] = None,
    with_admin: Annotated[
        bool, typer.Option("--admin/--no-admin", help="Whether there is a REST API.")
    ] = True,
    block: Annotated[
        bool,
        typer.Option(
            "--block", help="Stay in the foreground and log to stderr, as systemd expects."
        ),
    ] = False,
) -> None:
    """Start a cluster that stays until `serving shutdown`. Functions of gRPC services are imported
    from the working folder, too."""
    if (address := cluster.find()) is not None:
        raise ClusterError(f"a cluster runs already, at {api.status().url or address}")
    flags = grpc.model_fields_set
    if config is not None:
        given = (each.model_dump(exclude_unset=True) for each in (http, logging, grpc))
        http, logging, grpc = read_config(config).config.cluster_options(*given)
    chosen = settings(
        Path("."),
        http,
        logging,
        grpc,
        admin=admin if with_admin else None,
        node=node,
        flags=flags,
    )
    if block:
        cluster.become(chosen)
    started = cluster.start_detached(chosen)
    typer.echo(f"Cluster started, process {started['pid']}; logs are in {started['log']}")
    if problem := started["admin_problem"]:
        typer.echo(f"serving: {problem}", err=True)
    if started["admin_url"]:
        typer.echo(f"REST API: {started['admin_url']}/{_how_to_enter(admin, started)}")
    status = api.status()
    if status.grpc_target:
        typer.echo(f"gRPC: {status.grpc_target}")
    if status.url:
        typer.echo(f"HTTP: {status.url}/")


def _how_to_enter(admin: AdminOptions, started: dict[str, str]) -> str:
    if os.environ.get(ADMIN_TOKEN_VARIABLE):
        return f", with the token that {ADMIN_TOKEN_VARIABLE} names"
    if not admin.is_loopback:
        return f", with the token in {started['state_dir']}/{cluster.ADMIN_TOKEN_FILE}"
    return ""
