from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from serving.cli.exit_codes import ExitCode, WrongArgumentError, code_of
from serving.cli.options import (
    ADMIN_FLAGS,
    GRPC_FLAGS,
    HTTP_FLAGS,
    LOGGING_FLAGS,
    NODE_FLAGS,
    OWNERS,
    settings,
    takes,
)
from serving.config import AdminOptions, HTTPOptions, LoggingConfig, NodeOptions, gRPCOptions
from serving.exceptions import ClusterError, DeploymentFailedError
from serving.v1.grpc_pb2 import GrpcServices

got: list[tuple[HTTPOptions, LoggingConfig, str]] = []
app = typer.Typer()


@app.command()
@takes(HTTPOptions, "http", HTTP_FLAGS)
@takes(LoggingConfig, "logging", LOGGING_FLAGS)
def command(
    http: HTTPOptions, logging: LoggingConfig, own: Annotated[str, typer.Option()] = "own"
) -> None:
    got.append((http, logging, own))


def run(*arguments: str) -> tuple[HTTPOptions, LoggingConfig, str]:
    got.clear()
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return got[0]


def test_settings_are_made_of_what_was_given() -> None:
    expected = HTTPOptions(port=1, num_proxies=2, request_timeout_s=0.5)
    arguments = ["--http-port", "1", "--proxies", "2", "--request-timeout-s", "0.5"]

    http, logging, own = run(*arguments, "--log-level", "debug", "--no-access-log", "--own", "x")

    assert (http, own) == (expected, "x")
    assert http.model_fields_set == {"port", "num_proxies", "request_timeout_s"}
    assert logging == LoggingConfig(log_level="DEBUG", enable_access_log=False)


def test_settings_that_were_not_given_have_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_HTTP_PORT", "7")

    assert run() == (HTTPOptions(port=7), LoggingConfig(), "own")


def test_wrong_value_names_the_option_and_is_a_usage_error() -> None:
    with pytest.raises(WrongArgumentError, match="HTTP: option 'num_proxies'") as caught:
        CliRunner().invoke(app, ["--proxies", "0"], catch_exceptions=False)

    assert code_of(caught.value) is ExitCode.USAGE


@pytest.mark.parametrize("flags", [HTTP_FLAGS, GRPC_FLAGS, LOGGING_FLAGS, ADMIN_FLAGS, NODE_FLAGS])
def test_every_setting_has_its_flag(flags: dict[str, object]) -> None:
    """A field that is added to the settings gets one too, or a reason why not stands here."""
    known: dict[type[BaseModel], object] = {
        HTTPOptions: HTTP_FLAGS,
        gRPCOptions: GRPC_FLAGS,
        LoggingConfig: LOGGING_FLAGS,
        AdminOptions: ADMIN_FLAGS,
        NodeOptions: NODE_FLAGS,
    }
    assert known.keys() == OWNERS.keys()
    (model,) = (model for model, own in known.items() if own is flags)

    assert flags.keys() == model.model_fields.keys()


def test_list_is_given_item_by_item() -> None:
    app = typer.Typer()
    found: list[gRPCOptions] = []
    app.command()(takes(gRPCOptions, "grpc", GRPC_FLAGS)(lambda grpc: found.append(grpc)))
    flag = "--grpc-servicer-functions"

    for arguments in ([], [flag, "a.b", flag, "c:d", "--no-grpc-reflection"]):
        CliRunner().invoke(app, arguments, catch_exceptions=False)

    assert found == [
        gRPCOptions(),
        gRPCOptions(grpc_servicer_functions=["a.b", "c:d"], enable_reflection=False),
    ]
    assert found[0].model_fields_set == set()


SERVICE = "serving.v1.replica_pb2_grpc.add_ReplicaServicer_to_server"


TLS = {"ssl_certfile": "/dev/null", "ssl_keyfile": "/no"}


@pytest.mark.parametrize(
    ("http", "grpc", "message"),
    [
        ({}, {"host": "::1", "port": 9}, "--grpc-host, --grpc-port: there is no gRPC service"),
        ({}, {"grpc_servicer_functions": ["no_such.add"]}, "'no_such.add' cannot be imported"),
        ({}, {"grpc_servicer_functions": ["json.dumps"]}, "'json.dumps' is no generated add_"),
        ({}, {"grpc_servicer_functions": [SERVICE] * 2}, "a second time"),
        (
            {},
            {"grpc_servicer_functions": [SERVICE], **TLS},
            "ssl_keyfile '/no' cannot be read: No ",
        ),
        ({"location": None}, {"grpc_servicer_functions": [SERVICE]}, "there are no proxies"),
        ({"port": 9}, {"port": 9, "grpc_servicer_functions": [SERVICE]}, "the same port, 9"),
        (TLS, {}, "http_options: ssl_keyfile '/no' cannot be read: No such"),
    ],
)
def test_options_with_which_nothing_can_be_answered_are_a_usage_error(
    http: dict[str, Any],
    grpc: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = gRPCOptions(**grpc)

    with pytest.raises(WrongArgumentError, match=message):
        settings(
            tmp_path, HTTPOptions(**http), LoggingConfig(), options, flags=options.model_fields_set
        )


def test_functions_of_services_are_imported_from_the_folder_that_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path, _, name = SERVICE.rpartition(".")
    (tmp_path / "of_the_folder.py").write_text(f"from {path} import {name} as add\n")
    options = gRPCOptions(grpc_servicer_functions=["of_the_folder.add"])

    found = settings(tmp_path, HTTPOptions(), LoggingConfig(), options)

    services = GrpcServices.FromString(found.grpc_services)
    assert {each.name.rpartition("/")[0] for each in services.methods} == {"/serving.v1.Replica"}
    assert found.as_config()["grpc_sys_path"][0] == str(tmp_path)


def test_help_says_what_the_settings_say() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})

    assert "Seconds that an idle connection stays open" in result.output
    assert "90.0" in result.output


@pytest.mark.parametrize(
    ("error", "code"),
    [(ClusterError(), ExitCode.FAILED), (DeploymentFailedError(), ExitCode.DEPLOY_FAILED)],
)
def test_errors_have_exit_codes(error: Exception, code: ExitCode) -> None:
    assert code_of(error) is code
