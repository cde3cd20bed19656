from __future__ import annotations

from typing import Annotated

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from serving.cli.exit_codes import ExitCode, WrongArgumentError, code_of
from serving.cli.options import (
    ADMIN_FLAGS,
    HTTP_FLAGS,
    LOGGING_FLAGS,
    NODE_FLAGS,
    OWNERS,
    takes,
)
from serving.config import AdminOptions, HTTPOptions, LoggingConfig, NodeOptions
from serving.exceptions import ClusterError, DeploymentFailedError

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


@pytest.mark.parametrize("flags", [HTTP_FLAGS, LOGGING_FLAGS, ADMIN_FLAGS, NODE_FLAGS])
def test_every_setting_has_its_flag(flags: dict[str, object]) -> None:
    """A field that is added to the settings gets one too, or a reason why not stands here."""
    known: dict[type[BaseModel], object] = {
        HTTPOptions: HTTP_FLAGS,
        LoggingConfig: LOGGING_FLAGS,
        AdminOptions: ADMIN_FLAGS,
        NodeOptions: NODE_FLAGS,
    }
    assert known.keys() == OWNERS.keys()
    (model,) = (model for model, own in known.items() if own is flags)

    assert flags.keys() == model.model_fields.keys()


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
