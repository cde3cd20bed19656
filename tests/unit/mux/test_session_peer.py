"""A peer that is late, and one that breaks the rules: it ends its stream or its connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.mux import (
    ProtocolError,
    ResetCode,
    StreamReset,
)
from serving.mux.session import (
    FRAME_OVERHEAD,
    MAX_CONTROL,
    MAX_FRAME,
    MIN_WINDOW,
    Session,
    StreamCore,
)
from serving.mux.testing import SessionPair, taken
from serving.v1.frames_pb2 import (
    DATA,
    GOAWAY,
    OPEN,
    REJECT,
    RESET,
    WINDOW_UPDATE,
    Frame,
    FrameType,
)
from tests.support.mux import (
    TAG,
    Recorded,
    assert_nothing_left,
    frame,
    kinds,
    open_stream,
    told,
)

# Late frames: the stream ended at this end while they were under way.


@pytest.mark.parametrize(
    "late",
    [
        frame(DATA, data=b"late", end_stream=True),
        Frame(stream_id=1, type=WINDOW_UPDATE, window_increment=1),
        Frame(stream_id=1, type=RESET, code=ResetCode.CANCEL),
    ],
    ids=lambda frame: FrameType.Name(frame.type),
)
@pytest.mark.parametrize("end", ["caller", "replica"])
def test_late_frame_is_dropped(end: str, late: Frame) -> None:
    pair = SessionPair()
    for stream in open_stream(pair):
        stream.session.reset(stream, ResetCode.CANCEL)
    pair.exchange()
    getattr(pair, end).receive([late])
    assert_nothing_left(pair)


def test_late_reject_is_dropped() -> None:
    pair = SessionPair(on_open=lambda stream: pair.replica.reject(stream))
    stream = pair.caller.open(TAG, b"", end=True)
    pair.send(pair.caller)
    pair.caller.reset(stream, ResetCode.CANCEL)
    assert_nothing_left(pair)


# An untrusted peer: what breaks a rule of the connection ends it ...


@pytest.mark.parametrize(
    ("end", "frames", "reason"),
    [
        ("replica", [frame(OPEN, 5), frame(OPEN, 4)], "ids must rise"),
        ("replica", [frame(OPEN, 1)], "ids must rise"),
        ("replica", [frame(OPEN, 0)], "ids must rise"),
        ("replica", [frame(DATA, 9)], "never opened"),
        ("replica", [frame(DATA, 0)], "never opened"),
        ("replica", [frame(RESET, 9)], "never opened"),
        ("replica", [frame(WINDOW_UPDATE, 9, window_increment=1)], "never opened"),
        ("replica", [frame(REJECT, 1)], "REJECT from a caller"),
        ("replica", [frame(REJECT, 9)], "REJECT from a caller"),
        ("replica", [frame(GOAWAY, 0)], "GOAWAY from a caller"),
        ("replica", [Frame(stream_id=1)], "unknown type 0"),
        ("caller", [frame(OPEN, 2)], "from a replica"),
        ("caller", [frame(REJECT, 1)], "was accepted"),
        ("caller", [frame(GOAWAY, 0, last_stream_id=0)], "was accepted"),
        ("caller", [frame(DATA, 9)], "never opened"),
        ("caller", [frame(REJECT, 9)], "never opened"),
        ("caller", [frame(RESET, 0)], "never opened"),
    ],
    ids=lambda value: "+".join(map(str, kinds(value))) if isinstance(value, list) else value,
)
def test_breach_of_the_connections_rules_ends_it(
    end: str, frames: list[Frame], reason: str
) -> None:
    pair = SessionPair()
    open_stream(pair)
    with pytest.raises(ProtocolError, match=reason):
        getattr(pair, end).receive(frames)


def test_answer_to_a_stream_that_was_not_opened_yet_ends_the_connection() -> None:
    session = Session()
    session.open(TAG, b"", end=True)
    with pytest.raises(ProtocolError, match="before it was opened"):
        session.receive([frame(DATA, 1, end_stream=True)])


@pytest.mark.parametrize(
    "attack",
    [
        lambda i: [frame(OPEN, i, end_stream=True)],
        lambda i: [frame(OPEN, i), frame(RESET, i)],
        lambda i: [frame(OPEN, i, data=bytes(MAX_FRAME + 1))],
    ],
    ids=["rejects", "grants", "resets"],
)
def test_flood_that_forces_answers_ends_the_connection(
    attack: Callable[[int], list[Frame]],
) -> None:
    def admit(stream: StreamCore) -> None:
        if stream.receive_ended:
            session.reject(stream)
        else:
            session.accept(stream)

    session = Session(on_open=admit)
    # Made one by one: at once they would be a gigabyte.
    flood = (each for i in range(1, MAX_CONTROL + 2) for each in attack(i))
    with pytest.raises(ProtocolError, match="does not read"):
        session.receive(flood)
    assert len(session._control) <= MAX_CONTROL


def test_stalled_connection_is_no_error_of_the_streams_that_end() -> None:
    """The peer reads nothing, and more streams end than answers may wait: no request is to blame,
    so none hears of it; the connection ends where its frames are carried."""
    session = Session()
    streams = [session.open(TAG, b"", end=True) for _ in range(MAX_CONTROL + 10)]
    while taken(session):
        pass
    for stream in streams:
        session.reset(stream, ResetCode.CANCEL)
    assert not session.streams
    assert len(session._control) <= MAX_CONTROL
    with pytest.raises(ProtocolError, match="does not read"):
        taken(session)
    with pytest.raises(ProtocolError, match="does not read"):
        session.receive([])


def test_requests_given_up_on_a_stalled_connection_leave_nothing_behind() -> None:
    session = Session()
    for _ in range(1000):
        session.reset(session.open(TAG, b"", end=True), ResetCode.CANCEL)
    assert not session.streams
    assert not session._ready
    assert taken(session) == []


# ... and what breaks a rule of one stream ends that stream.


@pytest.mark.parametrize("end", ["caller", "replica"])
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(DATA, data=bytes(MAX_FRAME + 1))], ResetCode.PROTOCOL_ERROR),
        ([frame(DATA, more=True, end_stream=True)], ResetCode.PROTOCOL_ERROR),
        ([frame(DATA, data=bytes(MAX_FRAME))] * 3, ResetCode.FLOW_CONTROL_ERROR),
        ([frame(DATA)] * (1 + MIN_WINDOW // FRAME_OVERHEAD), ResetCode.FLOW_CONTROL_ERROR),
        ([frame(WINDOW_UPDATE, window_increment=0)], ResetCode.FLOW_CONTROL_ERROR),
        ([frame(WINDOW_UPDATE, window_increment=2**31)], ResetCode.FLOW_CONTROL_ERROR),
        ([frame(WINDOW_UPDATE, window_increment=2**30)] * 2, ResetCode.FLOW_CONTROL_ERROR),
    ],
    ids=[
        "oversized",
        "unfinished message at the end",
        "window overrun",
        "window overrun by empty frames",
        "empty grant",
        "large grant",
        "large sum of grants",
    ],
)
def test_breach_of_a_streams_rules_ends_that_stream_alone(
    frames: list[Frame], code: ResetCode, end: str
) -> None:
    pair = SessionPair(window=MIN_WINDOW, make_stream=Recorded)
    streams = open_stream(pair)
    other = open_stream(pair)[0]
    mine, theirs = streams if end == "caller" else reversed(streams)
    mine.session.receive(frames)

    assert isinstance(mine.error, StreamReset)
    assert mine.error.code == code
    assert told(mine)[-1] == "ended early"
    pair.exchange()
    assert isinstance(theirs.error, StreamReset)
    assert theirs.error.code == code
    assert list(pair.caller.streams) == list(pair.replica.streams) == [other.id]


def test_data_after_the_end_resets_the_stream() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, end=True)
    pair.replica.receive([frame(DATA, data=b"more")])
    pair.exchange()
    assert isinstance(replica.error, StreamReset)
    assert isinstance(caller.error, StreamReset)
    assert_nothing_left(pair)


def test_data_before_accept_overruns_the_window() -> None:
    opened: list[StreamCore] = []
    session = Session(on_open=opened.append)
    session.receive([frame(OPEN, 1), frame(DATA, data=b"early")])
    assert isinstance(opened[0].error, StreamReset)
    assert opened[0].error.code == ResetCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "fields",
    [{"data": bytes(MAX_FRAME + 1)}, {"more": True, "end_stream": True}],
    ids=["oversized", "unfinished message at the end"],
)
def test_malformed_open_is_reset_and_never_shown(fields: dict[str, object]) -> None:
    opened: list[StreamCore] = []
    session = Session(on_open=opened.append)
    session.receive([frame(OPEN, 1, **fields)])
    assert opened == []
    assert not session.streams
    assert kinds(taken(session)) == ["RESET"]
