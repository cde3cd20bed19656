"""The same applications and the same bytes, under uvicorn alone and under us."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conformance.cases import CASES, Case
from tests.integration.conformance.differences import DIFFERENCES, as_uvicorn_has_it, compare
from tests.integration.conformance.servers import Endpoints, ours, uvicorn_alone
from tests.integration.conformance.transcript import NO_ANSWER, run

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
