"""HTTP, gRPC and logging options."""

from __future__ import annotations

from typing import Any

import pytest

import serving
from serving import schema
from serving.config import (
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    Settings,
    gRPCOptions,
    validated,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PORT", "HTTP_KEEP_ALIVE_TIMEOUT_S"):
        monkeypatch.delenv(f"SERVING_{name}", raising=False)
        monkeypatch.delenv(f"RAY_SERVE_{name}", raising=False)


def test_http_defaults() -> None:
    options = HTTPOptions()

    assert (options.host, options.port, options.num_proxies) == ("127.0.0.1", 8000, 1)
    assert (options.keep_alive_timeout_s, options.request_timeout_s) == (90.0, None)


def test_environment_sets_the_default_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_HTTP_PORT", "1234")

    assert HTTPOptions().port == 1234
    assert HTTPOptions(port=99).port == 99


def test_environment_wins_over_the_keep_alive_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HTTP_KEEP_ALIVE_TIMEOUT_S", "7")
    assert HTTPOptions(keep_alive_timeout_s=30).keep_alive_timeout_s == 7

    monkeypatch.setenv("SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S", "8.5")
    assert HTTPOptions(keep_alive_timeout_s=30).keep_alive_timeout_s == 8.5


@pytest.mark.parametrize("value", ["soon", "0", "-1"])
def test_environment_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S", value)

    with pytest.raises(ValueError, match="SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S must be"):
        HTTPOptions()


@pytest.mark.parametrize("location", [None, "NoServer", "Disabled", ProxyLocation.Disabled])
def test_location_without_proxies(location: Any) -> None:
    assert HTTPOptions(location=location).location == "Disabled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prot": 1}, "http_options: unknown option 'prot' .did you mean 'port'"),
        ({"port": 70000}, "'port'.*got 70000"),
        ({"port": "80"}, "'port'.*got '80'"),
        ({"root_path": "api"}, "'root_path': must be empty, or begin with '/'"),
        ({"root_path": "/api/"}, "'root_path': must be empty, or begin with '/'"),
        ({"request_timeout_s": 0}, "'request_timeout_s'.*got 0"),
        ({"num_proxies": 0}, "'num_proxies'.*got 0"),
        ({"location": "Moon"}, "'location'.*got 'Moon'"),
        ({"ssl_certfile": "cert.pem"}, "ssl_certfile and ssl_keyfile go together"),
    ],
)
def test_wrong_http_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        validated(HTTPOptions, options, "http_options")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ports": 1}, "grpc_options: unknown option 'ports' .did you mean 'port'"),
        ({"port": -1}, "'port'.*got -1"),
        ({"grpc_servicer_functions": "pb.add"}, "'grpc_servicer_functions'.*list.*got 'pb.add'"),
        ({"grpc_servicer_functions": ["add"]}, "functions.0': 'add' is no import path: give one"),
        ({"grpc_servicer_functions": ["pb/x.add"]}, "'pb/x.add' is no import path"),
        ({"max_send_message_bytes": 0}, "'max_send_message_bytes'.*got 0"),
        ({"ssl_keyfile": "key.pem"}, "ssl_certfile and ssl_keyfile go together"),
        ({"ssl_ca_certs": "ca.pem"}, "ssl_ca_certs needs ssl_certfile and ssl_keyfile"),
    ],
)
def test_wrong_grpc_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        validated(gRPCOptions, options, "grpc_options")


def test_grpc_options_are_where_rays_are() -> None:
    assert serving.gRPCOptions is gRPCOptions
    assert {"port", "grpc_servicer_functions", "request_timeout_s"} < set(gRPCOptions.model_fields)


@pytest.mark.parametrize(
    "options",
    [
        HTTPOptions(port=0, location=None, request_timeout_s=3),
        gRPCOptions(port=0, grpc_servicer_functions=["pb:add"], request_timeout_s=3),
    ],
)
def test_options_travel_as_json(options: Settings) -> None:
    assert type(options).model_validate(options.model_dump(mode="json")) == options


def test_names_of_ray_serves_schema_are_there() -> None:
    assert schema.LoggingConfig is LoggingConfig


def test_log_level_is_taken_in_any_case() -> None:
    assert LoggingConfig(log_level="warning").log_level == "WARNING"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log_level"):
        LoggingConfig(log_level="LOUD")  # type: ignore[arg-type]
