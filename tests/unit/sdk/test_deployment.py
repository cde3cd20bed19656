"""The decorator, options and bind."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.deployment import Application, Deployment


class Model:
    def __init__(self, path: str, *, size: int = 1) -> None:
        self.path, self.size = path, size

    def __call__(self) -> str:
        return self.path


def handler(request: object) -> str:
    return "hello"


def test_decorator_works_bare_and_with_options() -> None:
    bare = serving.deployment(Model)
    named = serving.deployment(name="other", num_replicas=3)(Model)

    assert (bare.name, bare.config.num_replicas) == ("Model", 1)
    assert (named.name, named.config.num_replicas) == ("other", 3)
    assert bare.func_or_class is Model
    assert bare.func_or_class("x").path == "x"


def test_defaults_are_those_of_the_design() -> None:
    config = serving.deployment(handler).config

    assert config.max_ongoing_requests == 100
    assert config.max_queued_requests == -1
    assert config.graceful_shutdown_timeout_s == 20
    assert config.health_check_period_s == 10
    assert config.health_check_timeout_s == 30


def test_options_makes_another_deployment() -> None:
    one = serving.deployment(num_replicas=2, max_ongoing_requests=5)(Model)
    other = one.options(num_replicas=4, name="four")

    assert (one.name, one.config.num_replicas) == ("Model", 2)
    assert (other.name, other.config.num_replicas) == ("four", 4)
    assert other.config.max_ongoing_requests == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "changed"  # type: ignore[misc]


def test_bind_keeps_the_arguments() -> None:
    application = serving.deployment(Model).bind("weights", size=2)

    assert isinstance(application, Application)
    assert (application.args, application.kwargs) == (("weights",), {"size": 2})


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "missing a required argument: 'path'"),
        (("a", "b"), {}, "too many positional arguments"),
        (("a",), {"sise": 1}, "unexpected keyword argument 'sise'"),
    ],
)
def test_bind_refuses_what_the_constructor_would(
    args: tuple[Any, ...], kwargs: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TypeError, match=f"deployment 'Model'.*{problem}"):
        serving.deployment(Model).bind(*args, **kwargs)


def test_bind_of_a_function_takes_nothing() -> None:
    assert serving.deployment(handler).bind().args == ()
    with pytest.raises(TypeError, match="'handler' is a function"):
        serving.deployment(handler).bind("x")  # type: ignore[call-arg]


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a], lambda a: {"k": (a,)}])
def test_bind_refuses_deployments_that_are_not_bound(wrap: Any) -> None:
    inner = serving.deployment(handler)

    with pytest.raises(TypeError, match=r"'path' holds .*'handler', which is not bound: .*bind"):
        serving.deployment(Model).bind(wrap(inner))


def test_deployment_stays_an_ordinary_class() -> None:
    instance = serving.deployment(Model)("a/path")

    assert type(instance) is Model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_replica": 2},
            "deployment 'Model': unknown option 'num_replica' "
            r"\(did you mean 'num_replicas'\?\); allowed: name, num_replicas, ",
        ),
        ({"zzz": 2}, "unknown option 'zzz'; allowed: "),
        (
            {"ray_actor_options": {"num_cpu": 1}},
            "unknown option 'ray_actor_options.num_cpu' .did you mean 'num_cpus'",
        ),
        (
            {"ray_actor_options": {"runtime_env": {"workdir": "."}}},
            "unknown option 'ray_actor_options.runtime_env.workdir' .did you mean 'working_dir'.*"
            "allowed: env_vars, working_dir, py_modules",
        ),
    ],
)
def test_unknown_option_is_named_with_its_neighbours(options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        serving.deployment(**options)(Model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicas": 0}, "'num_replicas': 0 would never serve a request; use 1 or more"),
        ({"num_replicas": "3"}, "'num_replicas': must be a whole number or 'auto'; got '3'"),
        ({"num_replicas": -1}, "'num_replicas': -1 would never serve a request; .*got -1"),
        ({"max_ongoing_requests": 0}, "'max_ongoing_requests'.*greater than 0; got 0"),
        ({"max_queued_requests": -2}, "'max_queued_requests'"),
        ({"user_config": object()}, "'user_config': must be what JSON can hold"),
        ({"health_check_period_s": "often"}, "'health_check_period_s'.*got 'often'"),
        ({"http_adapter": 3}, "'http_adapter'"),
        (
            {"ray_actor_options": {"runtime_env": {"pip": ["x"]}}},
            "'ray_actor_options.runtime_env': 'pip' is refused: install packages where serving "
            "itself is installed; allowed: env_vars, working_dir, py_modules",
        ),
        (
            {"ray_actor_options": {"runtime_env": {"env_vars": {"A": 1}}}},
            r"'ray_actor_options.runtime_env.env_vars.A': .*valid string; got 1",
        ),
        (
            {"ray_actor_options": {"runtime_env": {"working_dir": "s3://bucket/code.zip"}}},
            r"runtime_env.working_dir': URIs are not fetched: name a folder or file of the "
            "machine that deploys; got 's3://bucket/code.zip'",
        ),
        (
            {"ray_actor_options": {"runtime_env": {"py_modules": ["https://host/m.zip"]}}},
            "runtime_env.py_modules': URIs are not fetched",
        ),
        ({"name": "a#b"}, "name must be a string without"),
        ({"name": 3}, "name must be a string without"),
    ],
)
def test_wrong_value_is_named_with_the_deployment(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving.deployment(**options)(Model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_replicas": 2, "autoscaling_config": {}},
            'exclude each other: leave num_replicas out, or make it "auto"',
        ),
        (
            {"autoscaling_config": {"min_replicas": 3, "max_replicas": 2}},
            r"'autoscaling_config': max_replicas \(2\) must not be below min_replicas \(3\)",
        ),
        (
            {"autoscaling_config": {"initial_replicas": 2}},
            r"initial_replicas \(2\) must lie between min_replicas \(1\) and max_replicas \(1\)",
        ),
        (
            {"autoscaling_config": {"target_ongoing_requests": 0}},
            "'autoscaling_config.target_ongoing_requests'.*greater than 0; got 0",
        ),
        ({"autoscaling_config": {"policy": {"policy_function": 3}}}, "policy_function.*got 3"),
    ],
    ids=["both", "limits", "initial", "target", "policy"],
)
def test_wrong_autoscaling_config_says_what_is_wrong(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving.deployment(**options)(Model)


def test_unknown_field_of_an_autoscaling_config_is_named_with_its_neighbours() -> None:
    with pytest.raises(TypeError, match=r"autoscaling_config.max_replica' .did you mean 'max_rep"):
        serving.deployment(autoscaling_config={"max_replica": 3})(Model)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"num_replicas": "auto"}, (1, 100)),
        ({"num_replicas": "auto", "autoscaling_config": {"max_replicas": 5}}, (1, 5)),
        (
            {
                "num_replicas": "auto",
                "autoscaling_config": serving.AutoscalingConfig(min_replicas=0),
            },
            (0, 100),
        ),
        ({"num_replicas": None, "autoscaling_config": {"max_replicas": 5}}, (1, 5)),
    ],
    ids=["alone", "with a dict", "with a config", "none"],
)
def test_auto_is_what_ray_serve_means_by_it(options: Any, limits: tuple[int, int]) -> None:
    config = serving.deployment(**options)(Model).config

    assert config.autoscaling_config is not None
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == limits
    assert scaling.target_ongoing_requests == 2
    assert config.num_replicas == limits[0]


def test_newer_of_a_fixed_number_and_a_configuration_takes_the_place_of_the_other() -> None:
    fixed = serving.deployment(num_replicas=3)(Model)
    scaled = fixed.options(autoscaling_config={"max_replicas": 5})

    assert scaled.config.autoscaling_config is not None
    assert scaled.options(num_replicas=2).config.autoscaling_config is None


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({}, (1, 1)),
        ({"smoothing_factor": 2}, (2, 2)),
        ({"smoothing_factor": 2, "upscale_smoothing_factor": 3}, (3, 2)),
        ({"downscale_smoothing_factor": 2, "downscaling_factor": 0.5}, (1, 0.5)),
    ],
    ids=str,
)
def test_newer_names_of_factors_win(factors: Any, expected: tuple[float, float]) -> None:
    config = serving.AutoscalingConfig(**factors)

    assert (config.get_upscaling_factor(), config.get_downscaling_factor()) == expected


def test_modules_stand_for_where_they_lie() -> None:
    modules = {"runtime_env": {"py_modules": [json, textwrap]}}
    config = serving.deployment(ray_actor_options=modules)(Model).config

    assert config.ray_actor_options is not None
    env = config.ray_actor_options.runtime_env
    assert env is not None
    assert env.py_modules == [str(Path(json.__file__).parent), textwrap.__file__]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="num_replicas") as caught:
        serving.deployment(num_replicas=0, max_ongoing_requests=0)(Model)

    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("target", [3, "Model", None, Model("x")])
def test_decorator_refuses_what_is_neither_class_nor_function(target: Any) -> None:
    with pytest.raises(TypeError, match="marks a class or a function"):
        serving.deployment()(target)


def test_decorator_refuses_a_deployment() -> None:
    with pytest.raises(TypeError, match="is a deployment already"):
        serving.deployment(serving.deployment(Model))


def test_repr_shows_what_was_given() -> None:
    deployment: Deployment[..., Any] = serving.deployment(num_replicas=2)(Model)

    assert repr(deployment) == "Deployment('Model', num_replicas=2)"
    assert repr(deployment.bind("x")) == "Application('Model')"
