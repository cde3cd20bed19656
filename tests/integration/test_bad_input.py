"""Mistakes of those who deploy, and of handlers: who is told, and what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

import serving
from tests.integration.apps import faulty
from tests.integration.conformance.wire import ConnectionEnded
from tests.support.cluster import Cluster
from tests.support.control import replica_pids

deploy: Any = serving.deployment  # as those see it who check no types


def handler(request: object) -> str:
    return "served"


class Takes:
    def __init__(self, size: int, *, name: str = "") -> None: ...

    def __call__(self) -> None: ...


# What is wrong with a deployment


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        pytest.param(
            lambda: deploy(num_replica=2)(handler),
            TypeError,
            r"deployment 'handler': unknown option 'num_replica' \(did you mean 'num_replicas'\?\)",
            id="unknown-option",
        ),
        pytest.param(
            lambda: deploy(handler).options(colour="red"),
            TypeError,
            "deployment 'handler': unknown option 'colour'; allowed: name, num_replicas, ",
            id="unknown-option-of-options",
        ),
        pytest.param(
            lambda: deploy(num_replicas="two")(handler),
            ValueError,
            "'handler': option 'num_replicas': must be a whole number or 'auto'; got 'two'",
            id="wrong-type",
        ),
        pytest.param(
            lambda: deploy(num_replicas=0)(handler),
            ValueError,
            "deployment 'handler': option 'num_replicas': 0 would never serve .* use 1 or more",
            id="no-replicas",
        ),
        pytest.param(
            lambda: deploy(max_ongoing_requests=0)(handler),
            ValueError,
            "deployment 'handler': option 'max_ongoing_requests': .*greater than 0",
            id="no-requests",
        ),
        pytest.param(
            lambda: deploy(user_config={"a": object()})(handler),
            ValueError,
            "deployment 'handler': option 'user_config': .*JSON",
            id="user-config-no-json",
        ),
        pytest.param(
            lambda: deploy(ray_actor_options={"num_gpu": 1})(handler),
            TypeError,
            r"deployment 'handler': unknown option 'ray_actor_options.num_gpu' \(did you mean",
            id="unknown-nested-option",
        ),
        pytest.param(
            lambda: serving.run(deploy(handler)),
            TypeError,
            r"deployment 'handler' is not bound: did you forget \.bind\(\)",
            id="not-bound",
        ),
        pytest.param(
            lambda: serving.run(handler),  # type: ignore[arg-type]
            TypeError,
            r"the result of \.bind\(\) on a @serving.deployment, not 'function'",
            id="no-deployment",
        ),
        pytest.param(
            lambda: serving.run(deploy(faulty.NoCall).bind()),
            TypeError,
            "deployment 'NoCall' cannot take HTTP requests: .*__call__.*serving.ingress",
            id="no-call",
        ),
        pytest.param(
            lambda: deploy(Takes).bind(),
            TypeError,
            r"deployment 'Takes': bind\(\) does not fit .* missing a required argument: 'size'",
            id="missing-argument",
        ),
        pytest.param(
            lambda: deploy(Takes).bind(1, colour="red"),
            TypeError,
            r"deployment 'Takes': bind\(\) does not fit .* unexpected keyword argument 'colour'",
            id="unknown-argument",
        ),
        pytest.param(
            lambda: deploy(handler).bind(1),
            TypeError,
            "deployment 'handler' is a function",
            id="argument-of-a-function",
        ),
        pytest.param(
            lambda: deploy(7), TypeError, "marks a class or a function, not 'int'", id="no-callable"
        ),
        pytest.param(
            lambda: deploy(deploy(handler)), TypeError, "is a deployment already", id="twice"
        ),
        pytest.param(
            lambda: serving.run(deploy(handler).bind(), name=""),
            ValueError,
            "name must be",
            id="no-name",
        ),
        pytest.param(
            lambda: serving.run(deploy(Takes).bind(row for row in "ab")),
            TypeError,
            "generator",
            id="argument-that-cannot-travel",
        ),
    ],
)
def test_mistake_is_told_and_nothing_is_deployed(
    cluster: Cluster, mistake: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mistake()

    assert serving.status().applications == {}
    assert not replica_pids()
    assert cluster.get("/-/routes").json() == {}


def test_class_without_call_runs_where_it_takes_no_http(cluster: Cluster) -> None:
    with cluster.running(deploy(faulty.NoCall).bind(), None):
        assert serving.status().applications["root"].status == "RUNNING"


# What is wrong with a handler


@pytest.fixture(scope="module")
def faults(cluster: Cluster) -> Iterator[Cluster]:
    with ExitStack() as stack:
        stack.enter_context(cluster.running(faulty.Faulty.bind(), "/faulty"))
        stack.enter_context(cluster.running(faulty.faulty_in_thread.bind(), "/thread"))
        stack.enter_context(cluster.running(faulty.FaultyAPI.bind(), "/api"))
        stack.enter_context(cluster.running(faulty.Silent.bind(), "/silent"))
        yield cluster


@pytest.fixture
def unharmed(faults: Cluster) -> Iterator[Cluster]:
    """The replicas live on."""
    pids = replica_pids()
    yield faults
    assert replica_pids() == pids
    assert faults.get("/faulty/raise_in_loop").status_code == 500


@pytest.mark.parametrize(
    ("path", "error"),
    [
        pytest.param("/faulty/raise_in_loop", "SecretError: told to nobody", id="loop"),
        pytest.param("/thread/raise", "SecretError: told to nobody", id="thread"),
        pytest.param("/api/loop", "SecretError: told to nobody", id="fastapi-loop"),
        pytest.param("/api/thread", "SecretError: told to nobody", id="fastapi-thread"),
        pytest.param("/faulty/cancel_oneself", "CancelledError", id="cancelled-by-itself"),
        pytest.param("/faulty/exit_in_loop", "SystemExit: told to nobody", id="exit-loop"),
        pytest.param("/thread/exit", "SystemExit: told to nobody", id="exit-thread"),
        pytest.param("/thread/stop", "StopIteration", id="stop-iteration"),
    ],
)
def test_exception_of_a_handler_is_in_the_log_alone(
    unharmed: Cluster, path: str, error: str
) -> None:
    request_id = f"raised{path.replace('/', '-')}"
    response = unharmed.get(path, headers={"X-Request-ID": request_id})

    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert response.headers["x-request-id"] == request_id
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    entry = log_entry(unharmed, request_id)
    assert f"request_id={request_id} " in entry
    assert f" -- request failed: GET {path}" in entry
    assert "Traceback" in entry
    assert error in entry


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param("opaque", "tests.integration.apps.faulty.Opaque", id="object"),
        pytest.param("nested", "tests.integration.apps.faulty.Opaque", id="nested"),
        pytest.param("nan", "float", id="nan"),
        pytest.param("circular", "list", id="circular"),
        pytest.param("surrogate", "str", id="surrogate"),
        pytest.param("function", "builtin_function_or_method", id="function"),
    ],
)
def test_value_without_a_form_is_logged_with_its_type_and_deployment(
    unharmed: Cluster, value: str, kind: str
) -> None:
    request_id = f"value-{value}"
    response = unharmed.get(f"/faulty/{value}", headers={"X-Request-ID": request_id})

    assert (response.status_code, response.text) == (500, "Internal Server Error")
    entry = log_entry(unharmed, request_id)
    assert "faulty#Faulty#" in entry.splitlines()[0]
    assert "UnserializableResultError" in entry
    assert kind in entry


def test_exception_in_mid_stream_breaks_the_response_off(unharmed: Cluster) -> None:
    with unharmed.wire() as wire:
        wire.send(wire.request("GET /faulty/break_off", "x-request-id: broken-off"))
        assert wire.read_head()[0] == 200
        assert wire.read_chunk() == b"begun"
        with pytest.raises(ConnectionEnded):
            wire.read_chunk()

    assert "SecretError: told to nobody" in log_entry(unharmed, "broken-off")


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        pytest.param("/silent", "the application returned without completing", id="no-response"),
        pytest.param("/faulty/head_too_large", "failed in the proxy", id="head-too-large"),
    ],
)
def test_answer_that_is_no_response_is_a_500_that_the_log_knows(
    unharmed: Cluster, path: str, logged: str
) -> None:
    request_id = f"no-answer{path.replace('/', '-')}"
    response = unharmed.get(path, headers={"X-Request-ID": request_id})

    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert response.headers["x-request-id"] == request_id
    unharmed.logged(f"request_id={request_id} .*{logged}")
    unharmed.logged(f"GET {path} 500 .*{request_id}$")


def test_many_failures_are_told_apart(unharmed: Cluster) -> None:
    with requests.Session() as session:
        ids = [
            session.get(unharmed.url("/faulty/raise_in_loop")).headers["x-request-id"]
            for _ in range(20)
        ]

    assert len(set(ids)) == 20
    for request_id in ids:
        log_entry(unharmed, request_id)


def log_entry(cluster: Cluster, request_id: str) -> str:
    """The one entry about a failed request, with all its lines."""
    cluster.logged(f"request_id={request_id} .*request failed")
    entries = re.split(r"^(?=(?:INFO|WARNING|ERROR) \d{4}-)", cluster.log(), flags=re.MULTILINE)
    (entry,) = [entry for entry in entries if f"request_id={request_id} " in entry]
    return entry
