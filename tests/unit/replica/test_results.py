from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import pathlib
import uuid
from collections import OrderedDict, deque, namedtuple
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pandas as pd
import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse

from serving.exceptions import UnserializableResultError
from serving.replica.results import to_response

pytestmark = pytest.mark.fastapi_compat


class Color(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Level(enum.IntEnum):
    HIGH = 3


class Item(BaseModel):
    name: str
    price: decimal.Decimal = decimal.Decimal("1.50")
    made: datetime.date = datetime.date(2024, 2, 29)
    note: str | None = Field(default=None, serialization_alias="remark")


@dataclasses.dataclass
class Point:
    x: int
    label: Color
    inner: Item


class Plain:
    def __init__(self) -> None:
        self.a = 1


class Opaque:
    __slots__ = ()


Pair = namedtuple("Pair", "left right")

ITEM = Item(name="tea")


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [1.5, True, None, "x"]},
        [],
        {},
        0,
        -1.25,
        True,
        False,
        {"ключ": "значение", "quote": '"\\\n\u2028'},
        (1, 2),
        Pair(1, 2),
        OrderedDict(z=1, a=2),
        {1: "int", None: "none", False: "bool", 1.5: "float"},
        ITEM,
        [ITEM, {"nested": ITEM}],
        Point(1, Color.RED, ITEM),
        {"point": Point(1, Color.RED, ITEM)},
        Color.RED,
        Level.HIGH,
        [Shade.DARK, Level.HIGH, Color.RED],
        {Color.RED: 1, Shade.DARK: 2},
        {uuid.UUID(int=7): 1},
        {datetime.date(2024, 1, 1): {"deep": {Color.RED}}},
        {"only"},
        frozenset({3}),
        deque([1, {"x": deque([2])}]),
        datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        datetime.timedelta(seconds=1.5),
        {"when": datetime.time(1, 2), "path": pathlib.PurePosixPath("/a")},
        decimal.Decimal(2),
        uuid.UUID(int=1),
        ipaddress.ip_address("127.0.0.1"),
        {"raw": b"text"},
        QueryParams("a=b&c=d"),
        Plain(),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Plain) else repr(value),
)
def test_json_equals_what_fastapi_would_send(value: object) -> None:
    expected = JSONResponse(jsonable_encoder(value))

    status, headers, body = to_response(value)

    assert (status, headers, body) == (200, expected.raw_headers, expected.body)


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        ("hi", b"text/plain; charset=utf-8", b"hi"),
        ("", b"text/plain; charset=utf-8", b""),
        ("é", b"text/plain; charset=utf-8", "é".encode()),
        (Shade.DARK, b"text/plain; charset=utf-8", b"dark"),
        (b"\x00\xff", b"application/octet-stream", b"\x00\xff"),
        (bytearray(b"ab"), b"application/octet-stream", b"ab"),
        (memoryview(b"abcd")[1:3], b"application/octet-stream", b"bc"),
    ],
)
def test_text_and_bytes_are_sent_as_they_are(
    value: object, content_type: bytes, body: bytes
) -> None:
    assert to_response(value) == (
        200,
        [(b"content-length", b"%d" % len(body)), (b"content-type", content_type)],
        body,
    )


def test_none_is_an_empty_body() -> None:
    assert to_response(None) == (200, [(b"content-length", b"0")], b"")


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (np.arange(4).reshape(2, 2), b"[[0,1],[2,3]]"),
        (np.array([0.5, 1.5], dtype=np.float32), b"[0.5,1.5]"),
        (np.float32(0.5), b"0.5"),
        (np.float64(0.5), b"0.5"),
        (np.int64(3), b"3"),
        (np.bool_(True), b"true"),
        ({"scores": np.ones(2), "best": np.int8(1)}, b'{"scores":[1.0,1.0],"best":1}'),
        ({np.int64(1): [np.float16(2)]}, b'{"1":[2.0]}'),
        (np.array(["2024-01-01"], dtype="datetime64[D]"), b'["2024-01-01"]'),
        (
            pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
            b'[{"a":1,"b":"x"},{"a":2,"b":"y"}]',
        ),
        ([ValueError("bad row"), 1], b'["bad row",1]'),
    ],
    ids=repr,
)
def test_arrays_frames_and_errors_become_json(value: object, body: bytes) -> None:
    assert to_response(value)[2] == body


def test_keys_of_a_dict_are_kept_whatever_their_name() -> None:
    """jsonable_encoder drops every key that begins with `_sa`, for SQLAlchemy's sake."""
    body = to_response({"_sample": 1, "when": datetime.date(2024, 1, 1)})[2]

    assert body == b'{"_sample":1,"when":"2024-01-01"}'


async def _stream() -> AsyncIterator[str]:
    yield "x"


async def _work() -> str:
    return "x"


def _numbers() -> Iterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize("make", [_stream, _numbers])
def test_generator_is_refused_with_a_word_on_streaming(make: object) -> None:
    with pytest.raises(UnserializableResultError, match="generator.*StreamingResponse"):
        to_response(make())  # type: ignore[operator]


def test_forgotten_await_is_named() -> None:
    work = _work()
    try:
        with pytest.raises(UnserializableResultError, match="type coroutine.*await it"):
            to_response(work)
    finally:
        work.close()


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"x": np.float32("nan")}])
def test_numbers_that_json_lacks_are_refused(value: object) -> None:
    with pytest.raises(UnserializableResultError, match="no NaN and no infinity"):
        to_response(value)


def test_error_names_the_type_of_the_result_and_of_the_part_at_fault() -> None:
    with pytest.raises(UnserializableResultError, match=r"type dict .*Opaque has no JSON form"):
        to_response({"deep": [Opaque()]})


@pytest.mark.parametrize("value", [{"x": b"\xff"}, ["\ud800"], "\ud800", Point])
def test_what_has_no_text_form_is_refused(value: object) -> None:
    with pytest.raises(UnserializableResultError):
        to_response(value)


def test_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)

    with pytest.raises(UnserializableResultError, match="type list"):
        to_response(loop)
