from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from serving import http_adapters
from serving.replica.adapters import adapted_app

pytestmark = pytest.mark.fastapi_compat


async def adapt(
    adapter: Callable[..., Any], method: str = "POST", url: str = "/", **request: Any
) -> tuple[httpx.Response, Any]:
    """Send a request; return the response and the value that the handler got."""
    values: list[Any] = [None]

    async def handler(value: Any) -> Response:
        values[0] = value
        return Response()

    transport = httpx.ASGITransport(adapted_app(adapter, handler))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.request(method, url, **request), values[0]


def reason(response: httpx.Response) -> str:
    assert response.status_code == 422, response.text
    (problem,) = response.json()["detail"]
    assert problem["loc"][0] == "body"
    return str(problem["msg"])


def png(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


async def test_starlette_request_is_the_request() -> None:
    _, value = await adapt(http_adapters.starlette_request)

    assert isinstance(value, Request)


@pytest.mark.parametrize("value", [{"a": [1, None]}, [], "text", 3])
async def test_json_request_is_the_value_of_the_body(value: object) -> None:
    response, got = await adapt(http_adapters.json_request, content=json.dumps(value).encode())

    assert (response.status_code, got) == (200, value)


@pytest.mark.parametrize("body", [b"", b"{", b'"\xff"', b"[" * 100_000])
async def test_json_request_refuses_what_is_not_json(body: bytes) -> None:
    response, _ = await adapt(http_adapters.json_request, content=body)

    assert "the body is not JSON" in reason(response)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"array": [1, 2]}, np.array([1.0, 2.0])),
        ({"array": [[1, 2], [3, 4.5]]}, np.array([[1, 2], [3, 4.5]])),
        ({"array": [1, None]}, np.array([1, np.nan])),
        ({"array": []}, np.array([], dtype=float)),
        ({"array": [1, 2, 3, 4], "shape": [2, 2]}, np.array([[1.0, 2.0], [3.0, 4.0]])),
        ({"array": [1, 2, 3, 4], "shape": [-1, 1]}, np.array([[1.0], [2.0], [3.0], [4.0]])),
        ({"array": [2**60 + 1], "dtype": "int64"}, np.array([2**60 + 1])),
        ({"array": [1.5], "dtype": "float32"}, np.array([1.5], dtype=np.float32)),
        ({"array": [0, 1], "dtype": "bool"}, np.array([False, True])),
    ],
)
async def test_json_to_ndarray_reads_array_shape_and_dtype(
    body: dict[str, Any], expected: np.ndarray[Any, Any]
) -> None:
    response, value = await adapt(http_adapters.json_to_ndarray, json=body)

    assert response.status_code == 200
    np.testing.assert_array_equal(value, expected)
    assert value.dtype == expected.dtype


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"array": [[1], [1, 2]]}, "inhomogeneous"),
        ({"array": [1, 2, 3], "shape": [2, 2]}, "cannot reshape"),
        ({"array": [1], "dtype": "no such"}, "not an array"),
        ({"array": [1], "dtype": "S1000000000"}, "not one of numbers"),
        ({"array": [300], "dtype": "uint8"}, "out of bounds"),
        ({"array": ["x"]}, "could not convert"),
        ({}, "Field required"),
    ],
)
async def test_json_to_ndarray_says_what_is_wrong(body: dict[str, Any], message: str) -> None:
    response, _ = await adapt(http_adapters.json_to_ndarray, json=body)

    assert message in reason(response)


async def test_json_to_multi_ndarray_reads_arrays_by_name() -> None:
    body = {"a": {"array": [1]}, "b": {"array": [1], "dtype": "int8"}}

    _, value = await adapt(http_adapters.json_to_multi_ndarray, json=body)

    assert {name: (array.tolist(), str(array.dtype)) for name, array in value.items()} == {
        "a": ([1.0], "float64"),
        "b": ([1], "int8"),
    }


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", b'{"a":{"0":1,"1":2},"b":{"0":"x","1":"y"}}'),
        ("orient=records", b'[{"a":1,"b":"x"},{"a":2,"b":"y"}]'),
        ("orient=records&lines=true&nrows=2", b'{"a":1,"b":"x"}\n{"a":2,"b":"y"}\n{"a":3,"b":"z"}'),
        (
            "orient=split&lines=false",
            b'{"columns":["a","b"],"index":[0,1],"data":[[1,"x"],[2,"y"]]}',
        ),
    ],
)
async def test_pandas_read_json_takes_its_options_from_the_query(query: str, body: bytes) -> None:
    response, value = await adapt(http_adapters.pandas_read_json, url="/?" + query, content=body)

    assert response.status_code == 200
    pd.testing.assert_frame_equal(value, pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", b"no json"),
        ("", b""),
        ("date_unit=century", b"{}"),
        ("no_such=1", b"{}"),
        ("path_or_buf=/etc/passwd", b"{}"),
    ],
)
async def test_pandas_read_json_refuses_bodies_and_options_it_cannot_use(
    query: str, body: bytes
) -> None:
    response, _ = await adapt(http_adapters.pandas_read_json, url="/?" + query, content=body)

    assert "pandas cannot read the body" in reason(response)


@pytest.mark.parametrize(
    "request_",
    [
        {"content": png(PIXELS)},
        {"content": png(PIXELS), "headers": {"content-type": "image/png"}},
        {"files": {"img": ("a.png", png(PIXELS), "image/png")}},
    ],
    ids=["body", "typed-body", "form"],
)
async def test_image_to_ndarray_reads_a_body_or_a_form(request_: dict[str, Any]) -> None:
    response, value = await adapt(http_adapters.image_to_ndarray, **request_)

    assert response.status_code == 200
    np.testing.assert_array_equal(value, PIXELS)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"content": b"no image"}, "the body is not an image"),
        ({"content": b""}, "the body is not an image"),
        ({"content": png(PIXELS)[:45]}, "the body is not an image"),
        ({"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"}, "EPS"),
        ({"files": {"other": ("a.png", png(PIXELS))}}, "no file `img`"),
    ],
    ids=["text", "empty", "cut", "eps", "other-field"],
)
async def test_image_to_ndarray_says_what_is_wrong(request_: dict[str, Any], message: str) -> None:
    response, _ = await adapt(http_adapters.image_to_ndarray, **request_)

    assert message in reason(response)
    assert "0x" not in reason(response)


@pytest.mark.parametrize(
    ("adapter", "module", "package", "request_"),
    [
        (http_adapters.json_to_ndarray, "numpy", "numpy", {"json": {"array": []}}),
        (http_adapters.pandas_read_json, "pandas", "pandas", {"content": b"{}"}),
        (http_adapters.image_to_ndarray, "PIL.Image", "pillow", {"content": png(PIXELS)}),
        (
            http_adapters.image_to_ndarray,
            "python_multipart",
            "python-multipart",
            {"files": {"img": b"x"}},
        ),
    ],
)
async def test_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch,
    adapter: Callable[..., Any],
    module: str,
    package: str,
    request_: dict[str, Any],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ImportError, match=f"{adapter.__name__} needs {package}: pip install"):
        await adapt(adapter, **request_)


def test_import_of_the_adapters_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("numpy", "pandas", "PIL", "python_multipart"):
        monkeypatch.setitem(sys.modules, library, None)

    assert "json_request" in runpy.run_path(http_adapters.__file__)
