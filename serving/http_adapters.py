"""Ready-made HTTP adapters, for `@serving.deployment(http_adapter=...)`.

An adapter turns the request into the argument of the deployment's `__call__`. Any function can be
one, with the parameters that FastAPI understands; those here also work under `fastapi.Depends` in
an application of one's own. Each imports its library only when it is used, and answers what it
cannot read with 422.
"""

from __future__ import annotations

import io
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.requests import Request

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "NdArray",
    "image_to_ndarray",
    "json_request",
    "json_to_multi_ndarray",
    "json_to_ndarray",
    "pandas_read_json",
    "starlette_request",
]


class NdArray(BaseModel):
    """An array of numbers in a JSON body."""

    array: list[Any] = Field(
        description="The numbers as nested lists, or flat ones beside a `shape`; null is NaN."
    )
    shape: list[int] | None = Field(
        default=None, description="The shape to give the array; -1 stands for what remains."
    )
    dtype: str | None = Field(
        default=None, description="A numeric or boolean numpy dtype; float64 if left out."
    )


def starlette_request(request: Request) -> Request:
    """The request itself, as a deployment without an adapter gets it."""
    return request


async def json_request(request: Request) -> Any:
    """The body as the JSON value that it holds, whatever its content type."""
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:  # not JSON, not Unicode, or nested too deep
        raise _unreadable(f"the body is not JSON: {error}", "json_invalid") from error


def json_to_ndarray(payload: NdArray) -> np.ndarray[Any, Any]:
    """The array in a body such as `{"array": [1, 2, 3, 4], "shape": [2, 2], "dtype": "int8"}`.

    `shape` and `dtype` may be left out, as `NdArray` says.
    """
    numpy = _library("numpy", needed_by="json_to_ndarray")
    try:
        dtype = numpy.dtype(payload.dtype or "float64")
        if dtype.kind not in "biufc":  # "S1000000000" would take a gigabyte a number
            raise ValueError(f"dtype {payload.dtype!r} is not one of numbers or booleans")
        array: np.ndarray[Any, Any] = numpy.array(payload.array, dtype=dtype)
        return array if payload.shape is None else array.reshape(payload.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise _unreadable(f"the body is not an array: {error}", "ndarray_invalid") from error


def json_to_multi_ndarray(payload: dict[str, NdArray]) -> dict[str, np.ndarray[Any, Any]]:
    """Several arrays by name: a JSON object of what `json_to_ndarray` reads."""
    return {name: json_to_ndarray(array) for name, array in payload.items()}


async def pandas_read_json(request: Request) -> Any:
    """The body as `pandas.read_json` reads it: a `DataFrame`.

    Query parameters become arguments of `read_json`: `?orient=records&lines=true`. A value that is
    JSON is passed as that (`true`, `3`, `{"a":"int8"}`), another one as the string it is.
    """
    pandas = _library("pandas", needed_by="pandas_read_json")
    options = {name: _argument(text) for name, text in request.query_params.items()}
    body = io.BytesIO(await request.body())
    try:
        return await run_in_threadpool(pandas.read_json, body, **options)
    except Exception as error:  # pandas names no set of errors; body and options are the client's
        raise _unreadable(f"pandas cannot read the body: {error}", "frame_invalid") from error


async def image_to_ndarray(request: Request) -> np.ndarray[Any, Any]:
    """The image that the client sent, as a numpy array of height, width and channels.

    The image is the whole body, or the file `img` of a multipart form, in a format that Pillow
    knows. (EPS excepted: to draw it, Pillow would run Ghostscript on what a stranger sent.)
    """
    numpy = _library("numpy", needed_by="image_to_ndarray")
    image = _library("PIL.Image", needed_by="image_to_ndarray", package="pillow")
    data = io.BytesIO(await _image_file(request))

    def decode() -> np.ndarray[Any, Any]:
        with image.open(data) as picture:
            if picture.format == "EPS":
                raise ValueError("EPS is not accepted")
            array: np.ndarray[Any, Any] = numpy.array(picture)
            return array

    try:
        return await run_in_threadpool(decode)
    except image.UnidentifiedImageError as error:  # whose text is an address in memory
        raise _unreadable("the body is not an image", "image_invalid") from error
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise _unreadable(f"the body is not an image: {error}", "image_invalid") from error


async def _image_file(request: Request) -> bytes:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    _library("python_multipart", needed_by="image_to_ndarray", package="python-multipart")
    async with request.form() as form:
        file = form.get("img")
        if not isinstance(file, UploadFile):
            raise _unreadable("the form has no file `img`", "missing", "img")
        return await file.read()


def _argument(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _library(module: str, *, needed_by: str, package: str | None = None) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = package or module
        raise ImportError(
            f"the HTTP adapter {needed_by} needs {package}: pip install {package}"
        ) from error


def _unreadable(message: str, kind: str, *field: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", *field), "msg": message}])
