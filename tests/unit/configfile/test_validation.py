"""What a config may hold, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.config import DeploymentOptions, HTTPOptions, LoggingConfig, gRPCOptions
from serving.configfile.mistakes import ConfigError, lines
from serving.configfile.schema import DeploymentSchema, ServeDeploySchema, given
from serving.configfile.validation import checked, ignored, read

# All that Ray Serve's schema has, as its manual shows it.
RAYS = """
proxy_location: EveryNode
http_options: {host: 0.0.0.0, port: 8000, root_path: "", request_timeout_s: 10,
  keep_alive_timeout_s: 5, ssl_keyfile: null, ssl_certfile: null}
grpc_options: {port: 9000, grpc_servicer_functions: [pb:add_ServicerToServer], request_timeout_s: 5}
logging_config: {log_level: DEBUG, logs_dir: null, encoding: JSON, enable_access_log: true,
  additional_log_standard_attrs: [name]}
target_capacity: null
applications:
- name: text_ml
  route_prefix: /text
  import_path: text_ml.app
  args: {size: small}
  runtime_env: {pip: [torch], env_vars: {A: b}, working_dir: code, py_modules: [libs/mine]}
  external_scaler_enabled: false
  deployments:
  - name: Translator
    num_replicas: 1
    max_ongoing_requests: 5
    max_queued_requests: 100
    user_config: {language: french}
    graceful_shutdown_wait_loop_s: 2
    graceful_shutdown_timeout_s: 20
    health_check_period_s: 10
    health_check_timeout_s: 30
    ray_actor_options: {num_cpus: 1.0, num_gpus: 0, memory: 1000000, resources: {tpu: 1},
      accelerator_type: T4, runtime_env: {env_vars: {A: c}}}
    placement_group_bundles: [{CPU: 1}]
    placement_group_strategy: PACK
    logging_config: {log_level: INFO}
    request_router_config: {request_router_class: a:b}
- name: no_http
  route_prefix: null
  import_path: other:app
"""


def config(**application: Any) -> ServeDeploySchema:
    return checked({"applications": [{"import_path": "app:app"} | application]})


def test_file_for_ray_serve_is_taken_and_says_what_has_no_effect(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(RAYS)

    found, document = read(file)

    first, second = found.applications
    assert first.import_path == "text_ml:app"
    assert second.route_prefix is None
    warnings = sorted(lines(map(document.located, ignored(found)), "config.yaml"))
    assert [line.partition(": has no effect")[0] for line in warnings] == [
        "config.yaml:14:17: applications[0].runtime_env.pip",
        "config.yaml:28:5: applications[0].deployments[0].placement_group_bundles",
        "config.yaml:29:5: applications[0].deployments[0].placement_group_strategy",
        "config.yaml:30:5: applications[0].deployments[0].logging_config",
        "config.yaml:31:5: applications[0].deployments[0].request_router_config",
        "config.yaml:7:3: logging_config.additional_log_standard_attrs",
    ]


def test_options_of_the_file_start_the_cluster_and_those_of_the_command_win() -> None:
    found = checked(
        {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "0.0.0.0", "port": 1},
            "grpc_options": {"port": 3, "grpc_servicer_functions": ["pb:add"]},
            "logging_config": {"log_level": 10},
            "applications": [],
        }
    )

    http, logging, grpc = found.cluster_options(http={"port": 2}, grpc={"port": 4})

    assert http == HTTPOptions(host="0.0.0.0", port=2, location="HeadOnly")
    assert logging == LoggingConfig(log_level="DEBUG")
    assert grpc == gRPCOptions(port=4, grpc_servicer_functions=["pb:add"])


def test_every_option_of_a_deployment_is_in_the_schema_but_functions() -> None:
    assert DeploymentOptions.model_fields.keys() - DeploymentSchema.model_fields.keys() == {
        "http_adapter"
    }


def test_null_is_as_if_nothing_were_said() -> None:
    found = config(
        name=None,
        args=None,
        deployments=[{"name": "hello", "num_replicas": None, "user_config": {}}],
    )

    (application,) = found.applications
    assert application.name == "default"
    assert given(application.deployments[0]) == {"user_config": {}, "name": "hello"}


def test_what_has_no_effect_is_not_handed_on() -> None:
    deployment = {"name": "hello", "logging_config": {"log_level": "INFO"}, "num_replicas": 2}

    (application,) = config(deployments=[deployment]).applications

    assert given(application.deployments[0]) == {"num_replicas": 2, "name": "hello"}


def test_values_from_elsewhere_are_told_without_lines() -> None:
    with pytest.raises(ConfigError) as raised:
        checked({"applications": [{"import_path": "app:app", "nam": "a"}]})

    assert str(raised.value).startswith(
        "applications[0].nam: there is no key 'nam' here; did you mean 'name'?"
    )


@pytest.mark.parametrize("values", [None, 1, "text", [], {"applications": [None, 1, [], "a"]}])
def test_no_values_are_too_odd_to_be_told(values: object) -> None:
    with pytest.raises(ConfigError):
        checked(values)


def test_config_without_applications_is_warned_of() -> None:
    (warning,) = ignored(checked({"applications": []}))
    assert str(warning) == (
        "applications: is empty: a deploy of this deletes all applications that run"
    )
