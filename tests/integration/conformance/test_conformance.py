"""The same applications and the same bytes, under uvicorn alone and under us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import serving
from serving.exceptions import DeploymentFailedError
from tests.integration.conformance import deployments
from tests.integration.conformance.cases import CASES, Case
from tests.integration.conformance.differences import (
    DIFFERENCES,
    EVERYWHERE,
    as_uvicorn_has_it,
    compare,
)
from tests.integration.conformance.servers import Endpoint, Endpoints, ours, uvicorn_alone
from tests.integration.conformance.transcript import NO_ANSWER, run
from tests.integration.conformance.wire import Wire

every_case = pytest.mark.parametrize("case", CASES.values(), ids=str)


@pytest.fixture(scope="module")
def uvicorn() -> Iterator[Endpoints]:
    with uvicorn_alone() as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def uvicorn_again() -> Iterator[Endpoints]:
    with uvicorn_alone() as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with ours(tmp_path_factory.mktemp("state")) as endpoints:
        yield endpoints


@every_case
def test_suite_is_deterministic(case: Case, uvicorn: Endpoints, uvicorn_again: Endpoints) -> None:
    transcript = run(case, uvicorn)
    assert NO_ANSWER not in transcript
    assert run(case, uvicorn_again) == transcript


@every_case
def test_transcript_is_uvicorns(case: Case, uvicorn: Endpoints, cluster: Endpoints) -> None:
    difference = DIFFERENCES.get(str(case))
    transcript = as_uvicorn_has_it(run(case, cluster))
    assert compare(run(case, uvicorn), transcript) == (difference.lines if difference else ())


def test_differences_name_cases() -> None:
    assert DIFFERENCES.keys() <= CASES.keys()


def test_differences_everywhere_are_there(cluster: Endpoints) -> None:
    transcript = run(CASES["plain-connection_keep_alive"], cluster)
    requests = sum("HTTP/1.1 200" in line for line in transcript)
    for pattern, _ in EVERYWHERE:
        assert sum(bool(pattern.search(line)) for line in transcript) == requests


def test_lifespan_runs_as_under_uvicorn(cluster: Endpoints, tmp_path: Path) -> None:
    def visit(endpoint: Endpoint, file: Path) -> None:
        with Wire(endpoint.address, endpoint.prefix, (b"x-file: %s" % bytes(file),)) as wire:
            wire.send(wire.request("GET /"))
            assert wire.read_response() == 200

    with uvicorn_alone({"lifespan_log": "apps:lifespan_log"}) as endpoints:
        visit(endpoints["lifespan_log"], tmp_path / "uvicorn")
    serving.run(serving.deployment(deployments.LifespanLog).bind(), name="log", route_prefix="/log")
    visit(Endpoint(cluster["plain"].address, "/log"), tmp_path / "ours")
    serving.delete("log")

    assert (tmp_path / "ours").read_text() == (tmp_path / "uvicorn").read_text()


def test_lifespan_that_fails_is_no_deployment(cluster: Endpoints) -> None:
    failing = serving.deployment(deployments.FailingLifespan)
    with pytest.raises(DeploymentFailedError, match="the database is away"):
        serving.run(failing.bind(), name="failing", route_prefix="/failing")
    assert serving.status().applications["failing"].status == "DEPLOY_FAILED"
    serving.delete("failing")
