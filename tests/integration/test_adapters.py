"""HTTP adapters: what stands between the request and the argument of the deployment."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

import serving
from tests.integration.apps import adapted
from tests.support.cluster import Cluster

pytestmark = pytest.mark.fastapi_compat


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("application", "options", "status", "expected"),
    [
        pytest.param(
            adapted.echo_json.bind(), {"data": b"[1, null]"}, 200, {"got": [1, None]}, id="json"
        ),
        pytest.param(
            adapted.Doubles.bind(),
            {"json": {"array": [1, 2, 3, 4], "shape": [2, 2], "dtype": "int32"}},
            200,
            {"doubled": [[2, 4], [6, 8]], "dtype": "int32"},
            id="ndarray",
        ),
        pytest.param(
            adapted.shapes.bind(),
            {"json": {"a": {"array": [1, 2]}, "b": {"array": [[1], [2]]}}},
            200,
            {"a": [2], "b": [2, 1]},
            id="several-ndarrays",
        ),
        pytest.param(
            adapted.sums.bind(),
            {"params": {"orient": "records"}, "json": [{"x": 1, "y": 2.5}, {"x": 2, "y": 0.5}]},
            200,
            {"x": 3, "y": 3.0},
            id="pandas",
        ),
        pytest.param(
            adapted.describes.bind(), {"data": png(4, 2)}, 200, [2, 4, 3], id="image-as-body"
        ),
        pytest.param(
            adapted.describes.bind(), {"files": {"img": png(4, 2)}}, 200, [2, 4, 3], id="image-form"
        ),
        pytest.param(
            adapted.by_model.bind(),
            {"json": {"item": "a", "count": 3}},
            202,
            {"ordered": 3},
            id="pydantic-model",
        ),
        pytest.param(
            adapted.Orders.bind(),
            {
                "json": {"item": "pen"},
                "params": {"discount": "0.5"},
                "headers": {"X-Customer": "me"},
            },
            200,
            {
                "item": "pen",
                "count": 1,
                "customer": "me",
                "discount": 0.5,
                "link": "connection",
                "closed before": 0,
            },
            id="own-function",
        ),
        pytest.param(
            adapted.Orders.bind(),
            {"json": {"item": "secret"}},
            403,
            {"detail": "not for sale"},
            id="own-function-that-refuses",
        ),
    ],
)
def test_adapter_makes_the_argument(
    cluster: Cluster,
    application: serving.Application,
    options: dict[str, Any],
    status: int,
    expected: object,
) -> None:
    with cluster.running(application, "/adapted"):
        response = cluster.post("/adapted/any/path", **options)

    assert (response.status_code, response.json()) == (status, expected)


@pytest.mark.parametrize(
    ("application", "options", "where"),
    [
        pytest.param(adapted.echo_json.bind(), {"data": b"{"}, ["body"], id="json"),
        pytest.param(adapted.Doubles.bind(), {"json": {}}, ["body", "array"], id="ndarray"),
        pytest.param(adapted.sums.bind(), {"data": b"no table"}, ["body"], id="pandas"),
        pytest.param(adapted.describes.bind(), {"data": b"no image"}, ["body"], id="image"),
        pytest.param(
            adapted.by_model.bind(),
            {"json": {"item": "a", "count": "x"}},
            ["body", "count"],
            id="model",
        ),
        pytest.param(
            adapted.Orders.bind(),
            {"json": {"item": "a"}, "params": {"discount": "2"}},
            ["query", "discount"],
            id="own",
        ),
    ],
)
def test_what_an_adapter_cannot_read_is_told_with_422(
    cluster: Cluster, application: serving.Application, options: dict[str, Any], where: list[str]
) -> None:
    with cluster.running(application):
        response = cluster.post(**options)

    assert response.status_code == 422
    assert [problem["loc"] for problem in response.json()["detail"]] == [where]


def test_dependency_of_an_adapter_is_closed_and_its_headers_are_sent(cluster: Cluster) -> None:
    with cluster.running(adapted.Orders.bind(), "/orders"):
        first, second = (cluster.post("/orders", json={"item": "pen"}) for _ in range(2))

    assert first.headers["x-adapted"] == "/orders"
    assert [first.json()["closed before"], second.json()["closed before"]] == [0, 1]


def test_generator_behind_an_adapter_is_streamed(cluster: Cluster) -> None:
    with cluster.running(adapted.streams_words.bind()):
        assert cluster.post(data=b"a few words").text == "A;FEW;WORDS;"


def test_error_behind_an_adapter_is_logged_and_not_told(cluster: Cluster) -> None:
    with cluster.running(adapted.fails.bind()):
        response = cluster.post(data=b"this", headers={"X-Request-ID": "adapted-error"})

    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert response.headers["x-request-id"] == "adapted-error"
    cluster.logged(
        r"request_id=adapted-error .*request failed(.*\n)+?ValueError: cannot serve THIS"
    )


def test_adapter_of_a_script_travels_by_value(cluster: Cluster) -> None:
    factor = 3

    def multiplied(x: int) -> int:
        return x * factor

    @serving.deployment(http_adapter=multiplied)
    def answers(value: int) -> str:
        return json.dumps({"value": value})

    with cluster.running(answers.bind()):
        assert cluster.get("/?x=5").json() == {"value": 15}
