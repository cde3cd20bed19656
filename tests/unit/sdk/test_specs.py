"""What an application is checked for, and when two of them are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

import serving
from serving.config import DeploymentOptions
from serving.specs import application_spec, reachable_prefix
from serving.v1 import controller_pb2 as pb


class Callable:
    def __init__(self, value: int = 1) -> None:
        self.value = value

    def __call__(self) -> int:
        return self.value


class NotCallable:
    pass


@serving.ingress(FastAPI())
class Ingress:
    pass


def adapter(body: int) -> int:
    return body


def spec_of(*args: Any, **options: Any) -> pb.DeploymentSpec:
    application = serving.deployment(**options)(Callable).bind(*args)
    return application_spec(application, "app", "/").deployments[0]


def test_specification_says_what_was_asked_for() -> None:
    deployment = serving.deployment(name="D", num_replicas=2, user_config={"b": 1, "a": 2})
    spec = application_spec(deployment(Callable).bind(3), "app", "/x")

    assert (spec.name, spec.route_prefix, spec.ingress) == ("app", "/x", "D")
    (only,) = spec.deployments
    assert only.options.num_replicas == 2
    assert only.options.user_config_json == '{"a": 2, "b": 1}'
    assert not only.HasField("http_adapter")


@pytest.mark.parametrize("prefix", ["", "x", "/x/", "//", "/{x}", "/a}"])
def test_wrong_route_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="route_prefix"):
        application_spec(serving.deployment(Callable).bind(), "app", prefix)


@pytest.mark.parametrize("name", ["", "a/b", "a#b", None, 3])
def test_wrong_application_name_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be"):
        application_spec(serving.deployment(Callable).bind(), name, "/")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (serving.deployment(Callable), r"'Callable' is not bound: did you forget \.bind\(\)"),
        (Callable, "expected an application"),
        (Callable(), "expected an application"),
        (None, "expected an application"),
    ],
)
def test_what_is_not_bound_is_refused(target: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        application_spec(target, "app", "/")


def test_class_that_cannot_take_requests_is_refused_unless_it_serves_no_http() -> None:
    application = serving.deployment(NotCallable).bind()

    with pytest.raises(TypeError, match="'NotCallable' cannot take HTTP requests: give the class"):
        application_spec(application, "app", "/")
    assert application_spec(application, "app", None).route_prefix == ""


@pytest.mark.parametrize(
    ("target", "grpc", "expected"),
    [
        (serving.deployment(NotCallable).bind(), True, None),
        (serving.deployment(NotCallable).bind(), False, "/"),
        (serving.deployment(Callable).bind(1), True, "/"),
        (serving.deployment(Ingress).bind(), True, "/"),
        (NotCallable, True, "/"),
    ],
)
def test_class_with_rpcs_alone_is_reached_where_grpc_is_answered(
    target: object, grpc: bool, expected: str | None
) -> None:
    assert reachable_prefix(target, "/", lambda: grpc) == expected
    assert reachable_prefix(target, None, lambda: grpc) is None


def test_ingress_class_needs_no_call_method() -> None:
    application_spec(serving.deployment(Ingress).bind(), "app", "/")


# Of every option a value that is not its default.
IN_PLACE = {
    "autoscaling_config": {"max_replicas": 3},
    "num_replicas": 2,
    "max_ongoing_requests": 2,
    "max_queued_requests": 2,
    "user_config": 1,
    "graceful_shutdown_timeout_s": 2,
    "graceful_shutdown_wait_loop_s": 1,
    "health_check_period_s": 2,
    "health_check_timeout_s": 2,
    "blocked_loop_timeout_s": 2,
    "rolling_update_percentage": 1,
    "max_surge_percent": 1,
    "max_replicas_per_node": 2,
}
WITH_A_NEW_PROCESS = {"ray_actor_options": {"num_cpus": 1}, "http_adapter": adapter}


def test_every_option_is_said_to_need_a_new_process_or_not() -> None:
    assert IN_PLACE.keys() | WITH_A_NEW_PROCESS.keys() == DeploymentOptions.model_fields.keys()


@pytest.mark.parametrize("options", [{name: value} for name, value in IN_PLACE.items()], ids=str)
def test_version_stays_where_no_new_process_is_needed(options: Any) -> None:
    assert spec_of(**options).version == spec_of().version


@pytest.mark.parametrize(
    "options",
    [
        *({name: value} for name, value in WITH_A_NEW_PROCESS.items()),
        {"ray_actor_options": {"runtime_env": {"env_vars": {"A": "b"}}}},
    ],
)
def test_version_changes_with_what_takes_a_new_process(options: Any) -> None:
    assert spec_of(**options).version != spec_of().version


def test_version_changes_with_the_arguments_and_the_code() -> None:
    class Local:
        def __call__(self) -> int:
            return 1

    class Other:
        def __call__(self) -> int:
            return 2

    def version(target: Any) -> str:
        application = serving.deployment(name="D")(target).bind()
        return application_spec(application, "app", "/").deployments[0].version

    assert spec_of(1).version == spec_of(1).version != spec_of(2).version
    assert version(Local) == version(Local) != version(Other)


def with_files(**runtime_env: Any) -> pb.DeploymentSpec:
    return spec_of(ray_actor_options={"runtime_env": runtime_env})


def test_version_changes_with_what_is_in_the_files(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("x = 1")
    before = with_files(working_dir=str(tmp_path)), with_files(py_modules=[str(module)])
    assert with_files(working_dir=str(tmp_path)).version == before[0].version

    module.write_text("x = 2")

    assert with_files(working_dir=str(tmp_path)).version != before[0].version
    assert with_files(py_modules=[str(module)]).version != before[1].version


def test_version_stays_where_the_same_files_lie_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("x = 1")

    one, other = (with_files(working_dir=str(tmp_path / name)) for name in ("one", "other"))

    assert one.version == other.version
    assert other.working_dir.source == str(tmp_path / "other")


def test_paths_of_files_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert with_files(working_dir="code").working_dir.source == str(tmp_path / "code")
    assert with_files(working_dir="~/code").working_dir.source == str(tmp_path / "code")


@pytest.mark.parametrize("option", ["working_dir", "py_modules"])
def test_files_that_are_missing_are_told_with_the_deployment(option: str) -> None:
    path = "/no/such/folder"
    message = (
        rf"deployment '\w+': option 'ray_actor_options.runtime_env.{option}': {path} does not exist"
    )
    with pytest.raises(ValueError, match=message):
        with_files(**{option: path if option == "working_dir" else [path]})
