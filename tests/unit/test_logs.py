"""What a line of a replica's log tells, and when that is decided."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import queue
import re
import sys
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from serving import logs
from serving.config import LoggingConfig
from serving.context import ReplicaContext, RequestScope, enter_replica, enter_request
from tests.support.control import until

NAMES = ("serving", "uvicorn")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    factory, last = logging.getLogRecordFactory(), logging.lastResort
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    logging.setLogRecordFactory(factory)
    logging.lastResort = last
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def replica_log(monkeypatch: pytest.MonkeyPatch, **options: str) -> io.StringIO:
    """The log of a replica that this process seems to be."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure_replica("graph#Model#x1", LoggingConfig.model_validate(options))
    return stream


def log_in_request(scope: RequestScope, logger: str, message: str = "hello") -> None:
    def work() -> None:
        enter_replica(ReplicaContext("graph", "Model", "graph#Model#x1"), whole_process=False)
        enter_request(scope)
        logging.getLogger(logger).warning(message)

    copy_context().run(work)


SCOPE = RequestScope("id-1", "/graph", "graph", "llama")


def test_line_tells_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replica_log(monkeypatch)
    log_in_request(SCOPE, "serving.mine")

    assert re.fullmatch(
        r"WARNING \d{4}-\d\d-\d\d [\d:,]{12} graph#Model#x1 request_id=id-1 route=/graph "
        r"application=graph model_id=llama -- hello\n",
        stream.getvalue(),
    )


def test_line_outside_of_requests_tells_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replica_log(monkeypatch)
    logging.getLogger("serving").info("100%% %s", "so")

    assert stream.getvalue().endswith(" graph#Model#x1 -- 100% so\n")


def test_object_tells_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replica_log(monkeypatch, encoding="JSON")
    log_in_request(RequestScope("id-1", "/graph", "graph"), "serving")

    entry = json.loads(stream.getvalue())
    assert {**entry, "time": ""} == {
        "level": "WARNING",
        "time": "",
        "component": "graph#Model#x1",
        "message": "hello",
        "request_id": "id-1",
        "route": "/graph",
        "application": "graph",
        "deployment": "Model",
    }


def test_model_id_stays_one_word_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replica_log(monkeypatch)
    log_in_request(RequestScope("id-1", model_id='a b\n"ä'), "serving")

    (line,) = stream.getvalue().splitlines()
    assert line.split()[-3:] == [r'model_id="a\u0020b\n\"\u00e4"', "--", "hello"]


def test_users_logger_without_a_handler_is_heard_in_the_same_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = replica_log(monkeypatch)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_in_request(SCOPE, "app.models")

    assert " request_id=id-1 " in stream.getvalue()


def test_users_own_formatter_has_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    replica_log(monkeypatch)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        logging.Formatter("%(serving_request_id)s %(serving_replica)s %(message)s")
    )
    logger = logging.getLogger("app.own")
    monkeypatch.setattr(logger, "handlers", [handler])
    log_in_request(SCOPE, "app.own")
    logger.warning("outside", extra={"request_id": "the user's own"})

    assert stream.getvalue() == "id-1 graph#Model#x1 hello\n  outside\n"


def test_handler_that_writes_later_tells_of_the_request_of_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica_log(monkeypatch)
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger = logging.getLogger("app.queued")
    monkeypatch.setattr(logger, "handlers", [logging.handlers.QueueHandler(waiting)])
    for number in range(3):
        log_in_request(RequestScope(f"id-{number}"), "app.queued")

    enter = copy_context()
    enter.run(enter_request, RequestScope("another"))
    ids = [enter.run(waiting.get).__dict__["serving_request_id"] for _ in range(3)]
    assert ids == ["id-0", "id-1", "id-2"]


class Sink(io.StringIO):
    """Counts what is written at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def messages(self) -> list[str]:
        return [line.rpartition(" ")[2] for line in self.getvalue().splitlines()]


def test_lines_of_a_rush_are_written_together_and_a_warning_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = Sink()
    monkeypatch.setattr(sys, "stderr", sink)
    monkeypatch.setattr(logs, "GATHER_S", 60.0)  # the writing thread does not come in between
    logs.configure("proxy-0", LoggingConfig())
    logger = logging.getLogger("serving")
    logger.info("0")
    assert sink.messages() == ["0"]
    for number in range(1, 10):
        logger.info("%d", number)
    assert sink.messages() == ["0"]
    logger.warning("10")

    assert sink.messages() == [str(number) for number in range(11)]
    assert sink.writes == 2


def test_line_of_a_rush_tells_what_held_when_it_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "GATHER_S", 60.0)
    stream = replica_log(monkeypatch)
    logger = logging.getLogger("serving.mine")
    logger.info("the first, which is written at once")
    told = ["early"]
    logger.info("told %s", told)
    told[0] = "late"
    logging.getLogger("serving").handlers[0].flush()
    assert stream.getvalue().endswith("-- told ['early']\n")


def test_traceback_of_a_rush_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was raised is not kept: it holds the frames of its request."""
    monkeypatch.setattr(logs, "GATHER_S", 60.0)
    stream = replica_log(monkeypatch)
    logger = logging.getLogger("serving.mine")
    logger.info("the first")
    logger.info("the second", exc_info=ValueError("boom"))
    assert "-- the second\nValueError: boom\n" in stream.getvalue()


def test_lines_of_a_rush_are_written_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink()
    monkeypatch.setattr(sys, "stderr", sink)
    logs.configure("proxy-0", LoggingConfig())
    for number in range(10):
        logging.getLogger("serving").info("%d", number)

    until(lambda: len(sink.messages()) == 10, within_s=5)
    assert sink.messages() == [str(number) for number in range(10)]


def test_handlers_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLoggerClass())
    replica_log(monkeypatch)

    assert (root.handlers, root.level, logging.getLoggerClass()) == before
