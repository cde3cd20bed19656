"""What holds of two joined sessions whatever their users do and however slow the wire is, and of
one session whatever its peer sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from serving.mux import ProtocolError, ResetCode, StreamError, StreamRefused, StreamRejected
from serving.mux.session import (
    FRAME_OVERHEAD,
    HIGH_WATER,
    MAX_BATCH,
    MAX_FRAME,
    MIN_WINDOW,
    Session,
    StreamCore,
)
from serving.mux.testing import SessionPair, taken
from serving.v1.frames_pb2 import Frame
from tests.support.mux import TAG, assert_nothing_left

LARGEST = 3 * MIN_WINDOW
SIZES = st.sampled_from([0, 1, 100, MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, MIN_WINDOW, LARGEST])
WINDOWS = st.sampled_from([MIN_WINDOW, MIN_WINDOW + 1, 3 * MIN_WINDOW])
CODES = st.sampled_from([ResetCode.CANCEL, ResetCode.TIMEOUT, ResetCode.INTERNAL_ERROR])
ENDS = st.sampled_from(["caller", "replica"])

COMMON = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@dataclass
class Flow:
    """One direction of a stream: what was written, and what of it was read."""

    sent: list[bytes] = field(default_factory=list)
    whole: int = 0
    partial: bytes = b""

    def take(self, data: bytes, more: bool) -> None:
        self.partial += data
        message = self.sent[self.whole]
        assert message.startswith(self.partial), "lost or reordered"
        if not more:
            assert self.partial == message, "a message was cut"
            self.whole += 1
            self.partial = b""

    @property
    def complete(self) -> bool:
        return self.whole == len(self.sent) and not self.partial


@dataclass
class Exchange:
    """One stream: both ends of it, and both flows. ``calm`` until someone cuts it short."""

    caller: StreamCore
    replica: StreamCore | None = None
    up: Flow = field(default_factory=Flow)
    down: Flow = field(default_factory=Flow)
    calm: bool = True

    def end(self, name: str) -> StreamCore | None:
        return self.caller if name == "caller" else self.replica

    def writes(self, name: str) -> Flow:
        return self.up if name == "caller" else self.down

    def reads(self, name: str) -> Flow:
        return self.down if name == "caller" else self.up


class Interleavings(RuleBasedStateMachine):
    """Requests, and a wire that delivers in order but as late as it likes."""

    @initialize(window=WINDOWS)
    def connect(self, window: int) -> None:
        self.pair = SessionPair(window=window, on_open=self._on_open)
        self.exchanges: dict[int, Exchange] = {}
        self.rejecting = False
        self.written = 0

    def _on_open(self, stream: StreamCore) -> None:
        exchange = self.exchanges[stream.id]
        if self.rejecting:
            self.pair.replica.reject(stream)
        else:
            exchange.replica = stream
            self.pair.replica.accept(stream)

    def _message(self, size: int) -> bytes:
        self.written += 1
        return self.written.to_bytes(2, "big") * (size // 2) + b"!" * (size % 2)

    def _session(self, end: str) -> Session:
        return self.pair.caller if end == "caller" else self.pair.replica

    def _pick(self, number: int) -> Exchange:
        return list(self.exchanges.values())[number % len(self.exchanges)]

    # What users do

    @precondition(lambda self: not self.pair.caller.draining)
    @rule(size=SIZES, end=st.booleans())
    def open(self, size: int, end: bool) -> None:
        data = self._message(size)
        stream = self.pair.caller.open(TAG, data, end=end)
        self.exchanges[stream.id] = Exchange(stream, up=Flow([data]))

    @precondition(lambda self: self.exchanges)
    @rule(number=st.integers(0, 99), by=ENDS, size=SIZES, end=st.booleans())
    def write(self, number: int, by: str, size: int, end: bool) -> None:
        exchange = self._pick(number)
        stream = exchange.end(by)
        if stream is None or stream.send_ended or stream.must_wait:
            return
        if stream.id in stream.session.streams:
            data = self._message(size)
            exchange.writes(by).sent.append(data)
            stream.session.write(stream, TAG, data, end=end)
            exchange.calm &= not (end and by == "replica")

    @precondition(lambda self: self.exchanges)
    @rule(number=st.integers(0, 99), by=ENDS, parts=st.integers(1, 10))
    def read(self, number: int, by: str, parts: int) -> None:
        self._read(self._pick(number), by, parts)

    @precondition(lambda self: self.exchanges)
    @rule(number=st.integers(0, 99), by=ENDS, code=CODES, at_once=st.booleans())
    def cut_short(self, number: int, by: str, code: ResetCode, at_once: bool) -> None:
        exchange = self._pick(number)
        if (stream := exchange.end(by)) is not None:
            exchange.calm = False
            (stream.session.reset if at_once else stream.session.abort)(stream, code)

    @rule(sure=st.integers(0, 9))
    def goaway(self, sure: int) -> None:
        if sure == 0:
            self.pair.replica.goaway("draining")

    # What the wire does

    @rule(by=ENDS, max_bytes=st.sampled_from([1, 1000, MAX_FRAME, MAX_BATCH]))
    def send(self, by: str, max_bytes: int) -> None:
        batch = self.pair.send(self._session(by), max_bytes)
        assert sum(frame.ByteSize() for frame in batch) <= max_bytes + MAX_FRAME + FRAME_OVERHEAD

    @rule(to=ENDS, count=st.integers(1, 20), rejecting=st.booleans())
    def deliver(self, to: str, count: int, rejecting: bool) -> None:
        self.rejecting = rejecting
        self.pair.deliver(self._session(to), count)

    @rule()
    def catch_up(self) -> None:
        self.rejecting = False
        self.pair.exchange()

    # What must hold

    @invariant()
    def memory_is_bounded(self) -> None:
        for exchange in getattr(self, "exchanges", {}).values():
            for stream in filter(None, (exchange.caller, exchange.replica)):
                assert held(stream) <= self.pair.caller.window + MAX_FRAME + FRAME_OVERHEAD
                assert 0 <= stream.unsent <= HIGH_WATER + LARGEST + FRAME_OVERHEAD

    @invariant()
    def no_byte_of_a_window_is_lost_or_made(self) -> None:
        for exchange in getattr(self, "exchanges", {}).values():
            caller, replica = exchange.caller, exchange.replica
            if replica is None:
                continue
            for reader, writer in ((caller, replica), (replica, caller)):
                if not reader.receive_ended:
                    assert reader.granted + reader.owed + held(reader) == self.pair.caller.window
                    assert writer.send_credit <= reader.granted

    @invariant()
    def sessions_are_consistent(self) -> None:
        if hasattr(self, "pair"):
            check_consistent(self.pair.caller)
            check_consistent(self.pair.replica)

    def teardown(self) -> None:
        """Everybody finishes in good order: what was not cut short arrives whole."""
        if not hasattr(self, "pair"):
            return
        self.rejecting = False
        self._read_everything()
        for end in ("caller", "replica"):
            for exchange in self.exchanges.values():
                stream = exchange.end(end)
                if stream is not None and not stream.send_ended:
                    stream.session.write(stream, TAG, b"", end=True)
                    exchange.writes(end).sent.append(b"")
            self._read_everything()
        for exchange in self.exchanges.values():
            self._check_outcome(exchange)
        assert_nothing_left(self.pair)

    def _check_outcome(self, exchange: Exchange) -> None:
        error = exchange.caller.error
        if exchange.calm and exchange.replica is not None:
            assert error is None
            assert exchange.replica.error is None
            assert exchange.up.complete
            assert exchange.down.complete
        elif exchange.calm:
            assert isinstance(error, (StreamRejected, StreamRefused))
        if error is None and exchange.caller.receive_ended:
            assert exchange.down.complete

    def _read_everything(self) -> None:
        moved = True
        while moved:
            self.pair.exchange()
            moved = False
            for exchange in self.exchanges.values():
                for end in ("caller", "replica"):
                    moved |= self._read(exchange, end, 1000)
            self.no_byte_of_a_window_is_lost_or_made()

    def _read(self, exchange: Exchange, end: str, parts: int) -> bool:
        stream = exchange.end(end)
        if stream is None or not stream.inbox:
            return False
        while parts and (part := stream.session.read(stream)) is not None:
            exchange.reads(end).take(part.data, part.more)
            parts -= 1
        return True


def held(stream: StreamCore) -> int:
    """What a stream's inbox takes of its window."""
    return sum(len(part.data) + FRAME_OVERHEAD for part in stream.inbox)


def check_consistent(session: Session) -> None:
    """What a session's fields must agree on."""
    assert len(set(session._ready)) == len(session._ready)
    for stream in session._ready:
        assert stream.queued
        assert session.streams[stream.id] is stream
    for stream_id, stream in session.streams.items():
        assert stream.id == stream_id
        assert stream.error is None
        assert stream.queued == (stream in session._ready)
        assert bool(stream.pending) == (stream.unsent > 0)


def test_interleavings_lose_and_leave_nothing() -> None:
    run_state_machine_as_test(
        Interleavings, settings=settings(COMMON, max_examples=60, stateful_step_count=40)
    )


@settings(COMMON, max_examples=40)
@given(messages=st.lists(SIZES, min_size=1, max_size=8), window=WINDOWS)
def test_reader_that_never_reads_holds_a_window_and_no_more(
    messages: list[int], window: int
) -> None:
    pair = SessionPair(window=window)
    stream = pair.caller.open(TAG, b"", end=False)
    pair.exchange()
    for size in messages:
        if not stream.must_wait:
            pair.caller.write(stream, TAG, bytes(size))
        pair.exchange()

    taken = held(pair.replica.streams[stream.id])
    assert taken <= window + FRAME_OVERHEAD  # The empty frame of OPEN is free.
    assert stream.unsent <= HIGH_WATER + LARGEST
    assert not stream.pending or taken > window - MAX_FRAME - FRAME_OVERHEAD


# A peer that sends anything at all


def frames() -> st.SearchStrategy[Frame]:
    return st.builds(
        Frame,
        stream_id=st.sampled_from([0, 1, 2, 3, 4, 5, 9, 2**40]),
        type=st.sampled_from([*range(1, 7), *range(2, 5), 99, 0]),
        end_stream=st.booleans(),
        more=st.booleans(),
        tag=st.integers(0, 2**32 - 1),
        data=st.sampled_from([0, 1, MAX_FRAME, MAX_FRAME + 1]).map(bytes),
        timeout_us=st.sampled_from([0, 1, 2**64 - 1]),
        window_increment=st.sampled_from([0, 1, MIN_WINDOW, 2**31, 2**32 - 1]),
        code=st.sampled_from([0, 1, 5, 77]),
        reason=st.sampled_from(["", "why", "\N{SNOWMAN}" * 5000]),
        last_stream_id=st.sampled_from([0, 2, 2**64 - 1]),
    )


Step = Callable[[Session, list[StreamCore]], object]


def on_any(act: Callable[[Session, StreamCore], object]) -> Step:
    def step(session: Session, streams: list[StreamCore]) -> None:
        for stream in streams:
            act(session, stream)

    return step


def write(session: Session, stream: StreamCore) -> None:
    if not stream.send_ended and not stream.must_wait:
        session.write(stream, TAG, bytes(1000), end=stream.id % 2 == 0)


STEPS: dict[str, Step] = {
    "take": lambda session, _: taken(session),
    "take one": lambda session, _: taken(session, 1),
    "read": on_any(lambda session, stream: session.read(stream)),
    "write": on_any(write),
    "reset": on_any(lambda session, stream: session.reset(stream, ResetCode.CANCEL)),
    "abort": on_any(lambda session, stream: session.abort(stream, ResetCode.CANCEL)),
}
SCRIPTS: Any = st.lists(st.one_of(st.sampled_from(sorted(STEPS)), frames()), max_size=30)


def run_script(session: Session, streams: list[StreamCore], script: list[str | Frame]) -> None:
    """Lets user and peer act in turn, until the peer has broken the connection."""
    for step in script:
        if isinstance(step, str):
            STEPS[step](session, streams)
        else:
            try:
                session.receive([Frame.FromString(step.SerializeToString())])
            except ProtocolError:
                break
        check_consistent(session)
        for stream in streams:
            assert held(stream) <= session.window + MAX_FRAME + FRAME_OVERHEAD
    session.close("over")
    check_consistent(session)
    assert not session.streams
    assert not session._ready
    assert taken(session) == []
    for stream in streams:
        assert stream.error is None or isinstance(stream.error, StreamError)
        assert not stream.must_wait


@settings(COMMON, max_examples=300)
@given(script=SCRIPTS)
def test_replica_survives_whatever_a_caller_sends(script: list[str | Frame]) -> None:
    streams: list[StreamCore] = []

    def on_open(stream: StreamCore) -> None:
        if stream.id == 3:
            session.reject(stream)
        else:
            session.accept(stream)
            streams.append(stream)

    session = Session(window=MIN_WINDOW, on_open=on_open)
    run_script(session, streams, script)


@settings(COMMON, max_examples=300)
@given(script=SCRIPTS)
def test_caller_survives_whatever_a_replica_sends(script: list[str | Frame]) -> None:
    session = Session(window=MIN_WINDOW)
    streams = [session.open(TAG, bytes(MAX_FRAME * i), end=i == 1) for i in range(3)]
    taken(session)
    streams.append(session.open(TAG, b"not sent yet", end=True))
    run_script(session, streams, script)
