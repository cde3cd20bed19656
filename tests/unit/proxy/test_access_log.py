"""One line for each request."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
from collections.abc import Callable

import pytest

from serving.proxy import access_log
from serving.proxy.access_log import AccessLog, Entry
from tests.support.mux import turn


class Sink(io.StringIO):
    """Counts writes, and holds them up until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        self.writes += 1
        self.entered.set()
        self.may_go_on.wait(5)
        if self.error is not None:
            raise self.error
        return super().write(text)

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


def make_entry(path: str = "/a/b", status: int = 200, model_id: str = "") -> Entry:
    return Entry(
        time_s=1_700_000_000.25,
        application="app",
        route="/a",
        method="GET",
        path=path,
        status=status,
        latency_s=0.0123,
        request_id="id-1",
        model_id=model_id,
    )


def make_log(sink: Sink, *, as_json: bool = False) -> AccessLog:
    return AccessLog(sink, component="proxy-0", as_json=as_json)


async def hold(sink: Sink, log: AccessLog) -> Callable[[], None]:
    """Has the log write a line that the sink holds up; gives what lets it go on."""
    sink.may_go_on.clear()
    log.add(make_entry("/held"))
    log._flush()
    await asyncio.get_running_loop().run_in_executor(None, sink.entered.wait)
    return sink.may_go_on.set


async def test_line_names_the_model_that_was_asked_for() -> None:
    sink = Sink()
    log = make_log(sink)
    log.add(make_entry(model_id="a b"))
    await log.aclose()
    (line,) = sink.lines
    assert line.endswith(r'ms id-1 model_id="a\u0020b"')


async def test_line_of_text_tells_all_of_a_request() -> None:
    sink = Sink()
    log = make_log(sink)
    log.add(make_entry())
    await log.aclose()
    (line,) = sink.lines
    assert re.fullmatch(
        r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,250 proxy-0 -- app /a GET /a/b 200 12\.3ms id-1",
        line,
    )


async def test_line_of_json_tells_all_of_a_request() -> None:
    sink = Sink()
    log = make_log(sink, as_json=True)
    log.add(make_entry('/quo"te\n', 499))
    await log.aclose()
    assert [json.loads(line) for line in sink.lines] == [
        {
            "level": "INFO",
            "component": "proxy-0",
            "time_s": 1_700_000_000.25,
            "application": "app",
            "route": "/a",
            "method": "GET",
            "path": '/quo"te\n',
            "status": 499,
            "latency_s": 0.0123,
            "request_id": "id-1",
            "model_id": "",
        }
    ]


async def test_requests_of_a_moment_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "FLUSH_S", 0.0)
    sink = Sink()
    log = make_log(sink)
    for i in range(100):
        log.add(make_entry(f"/{i}"))
    await asyncio.get_running_loop().run_in_executor(None, sink.entered.wait)
    await log.aclose()
    assert [line.split()[8] for line in sink.lines] == [f"/{i}" for i in range(100)]
    assert sink.writes == 1


async def test_what_comes_while_a_line_is_written_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_log, "FLUSH_S", 0.001)
    sink = Sink()
    log = make_log(sink)
    go_on = await hold(sink, log)
    log.add(make_entry("/later"))
    go_on()
    await log.aclose()
    assert [line.split()[8] for line in sink.lines] == ["/held", "/later"]


async def test_close_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would write into an executor that is shut down."""
    sink = Sink()
    log = make_log(sink)
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def recorded(*args: object) -> asyncio.TimerHandle:
        timers.append(call_later(*args))  # type: ignore[arg-type]
        return timers[-1]

    monkeypatch.setattr(loop, "call_later", recorded)
    go_on = await hold(sink, log)
    log.add(make_entry("/later"))
    closing = asyncio.ensure_future(log.aclose())
    await turn()
    go_on()
    await closing
    assert len(sink.lines) == 2
    assert all(timer.cancelled() for timer in timers)


async def test_lines_that_a_slow_stream_cannot_take_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING", 3)
    sink = Sink()
    log = make_log(sink)
    go_on = await hold(sink, log)
    for i in range(10):
        log.add(make_entry(f"/{i}"))
    go_on()
    await log.aclose()
    assert [line.split()[8] for line in sink.lines[:4]] == ["/held", "/0", "/1", "/2"]
    assert sink.lines[4:] == ["WARNING proxy-0 -- 7 access log lines were dropped"]


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(), ValueError("I/O operation on closed file")],
    ids=lambda error: type(error).__name__,
)
async def test_stream_that_nobody_reads_is_no_error_of_the_proxy(error: Exception) -> None:
    sink = Sink()
    log = make_log(sink)
    sink.error = error
    go_on = await hold(sink, log)
    go_on()
    await asyncio.wait([log._writing] if log._writing else [asyncio.ensure_future(turn())])
    sink.error = None
    log.add(make_entry("/next"))
    await log.aclose()
    assert sink.lines[1:] == ["WARNING proxy-0 -- 1 access log lines were dropped"]


async def test_close_of_an_idle_log_writes_nothing() -> None:
    sink = Sink()
    await make_log(sink).aclose()
    assert sink.writes == 0
