"""The rules of a connection, one by one, on two sessions joined by hand."""

from __future__ import annotations

import pytest

from serving.mux import (
    ConnectionLost,
    ProtocolError,
    ResetCode,
    StreamError,
    StreamRefused,
    StreamRejected,
    StreamReset,
)
from serving.mux.session import (
    DEFAULT_WINDOW,
    FRAME_OVERHEAD,
    HIGH_WATER,
    MAX_BATCH,
    MAX_FRAME,
    MAX_REASON,
    MIN_WINDOW,
    Part,
    Session,
    StreamCore,
)
from serving.mux.testing import SessionPair, taken
from serving.v1.frames_pb2 import (
    GOAWAY,
    WINDOW_UPDATE,
    Frame,
)
from tests.support.mux import (
    TAG,
    Recorded,
    assert_nothing_left,
    kinds,
    messages,
    open_stream,
    read_all,
    told,
)

# Opening


def test_open_carries_the_first_message_and_the_time_left() -> None:
    opened: list[StreamCore] = []
    pair = SessionPair(on_open=opened.append)
    pair.caller.open(TAG, b"hello", end=True, timeout_us=1500)
    (opening,) = pair.send(pair.caller)
    pair.deliver(pair.replica)

    assert kinds([opening]) == ["OPEN"]
    assert opened[0].timeout_us == 1500
    assert read_all(opened[0]) == [Part(TAG, b"hello", False, True)]
    assert opened[0].receive_ended


def test_request_and_response_in_one_frame_each_leave_nothing_behind() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, b"hello", end=True)
    pair.replica.write(replica, TAG, b"world", end=True)

    assert kinds(pair.send(pair.replica)) == ["DATA"]
    pair.deliver(pair.caller)
    assert read_all(caller) == [Part(TAG, b"world", False, True)]
    assert_nothing_left(pair)


def test_accept_tells_the_caller_only_where_it_has_more_to_send() -> None:
    pair = SessionPair()
    complete, _ = open_stream(pair, b"all", end=True)
    incomplete, _ = open_stream(pair, b"some", end=False)

    assert not complete.accepted
    assert incomplete.accepted
    assert incomplete.send_credit == DEFAULT_WINDOW


def test_no_data_follows_open_before_the_replica_accepted() -> None:
    opened: list[StreamCore] = []
    pair = SessionPair(on_open=opened.append)
    stream = pair.caller.open(TAG, b"head", end=False)
    pair.caller.write(stream, TAG, b"body", end=True)
    pair.exchange()
    assert messages(read_all(opened[0])) == [b"head"]

    pair.replica.accept(opened[0])
    pair.exchange()
    assert messages(read_all(opened[0])) == [b"body"]
    assert opened[0].receive_ended


def test_rejected_stream_ends_with_its_own_error() -> None:
    pair = SessionPair(on_open=lambda stream: pair.replica.reject(stream), make_stream=Recorded)
    stream = pair.caller.open(TAG, b"", end=False)
    pair.exchange()

    assert isinstance(stream.error, StreamRejected)
    assert told(stream) == ["readable", "writable", "ended early"]
    assert_nothing_left(pair)


def test_stream_ids_outgrow_32_bits() -> None:
    """At 50,000 requests a second they do so within a day."""
    pair = SessionPair()
    pair.caller._last_id = 2**32 - 2
    for _ in range(3):
        caller, replica = open_stream(pair, b"hello", end=True)
        pair.replica.write(replica, TAG, b"world", end=True)
        pair.exchange()
        assert messages(read_all(caller)) == [b"world"]
    pair.replica.goaway()
    pair.exchange()
    assert pair.caller.draining


@pytest.mark.parametrize("window", [0, MIN_WINDOW - 1])
def test_window_too_small_to_work_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=str(MIN_WINDOW)):
        Session(window=window)


# Ending


def test_caller_may_end_first_and_still_read() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, b"one")
    pair.caller.write(caller, TAG, b"two", end=True)
    pair.exchange()
    assert replica.receive_ended
    pair.replica.write(replica, TAG, b"three")
    pair.exchange()
    pair.replica.write(replica, TAG, b"four", end=True)
    pair.exchange()

    assert messages(read_all(replica)) == [b"one", b"two"]
    assert messages(read_all(caller)) == [b"three", b"four"]
    assert_nothing_left(pair)


def test_replicas_end_ends_the_callers_half_too() -> None:
    pair = SessionPair(make_stream=Recorded, window=MIN_WINDOW)
    caller, replica = open_stream(pair)
    pair.caller.write(caller, TAG, bytes(4 * MIN_WINDOW))
    pair.exchange()
    assert caller.unsent > HIGH_WATER
    pair.replica.write(replica, TAG, b"enough", end=True)
    pair.exchange()

    assert not caller.must_wait
    assert "writable" in told(caller)
    assert replica.receive_ended
    assert caller.error is None
    assert messages(read_all(caller)) == [b"enough"]
    assert_nothing_left(pair)


def test_write_after_the_end_is_an_error_of_the_writer() -> None:
    pair = SessionPair()
    caller, _ = open_stream(pair, end=True)
    with pytest.raises(RuntimeError, match="after its end"):
        pair.caller.write(caller, TAG, b"")


def test_write_after_an_early_end_is_dropped() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair)
    pair.caller.reset(caller, ResetCode.CANCEL)
    pair.exchange()
    pair.replica.write(replica, TAG, b"too late", end=True)
    assert_nothing_left(pair)


@pytest.mark.parametrize("by", ["caller", "replica"])
def test_reset_reaches_the_peer_with_code_and_reason(by: str) -> None:
    pair = SessionPair(make_stream=Recorded)
    caller, replica = open_stream(pair)
    mine, theirs = (caller, replica) if by == "caller" else (replica, caller)
    mine.session.reset(mine, ResetCode.TIMEOUT, "too slow")
    pair.exchange()

    assert isinstance(theirs.error, StreamReset)
    assert (theirs.error.code, theirs.error.reason) == (ResetCode.TIMEOUT, "too slow")
    assert str(theirs.error) == "TIMEOUT: too slow"
    assert told(theirs)[-1] == "ended early"
    assert "ended early" not in told(mine)
    assert_nothing_left(pair)


def test_reset_is_harmless_on_a_stream_that_has_ended() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, end=True)
    pair.replica.write(replica, TAG, b"", end=True)
    pair.exchange()
    pair.caller.reset(caller, ResetCode.CANCEL)
    pair.replica.reset(replica, ResetCode.CANCEL)
    assert_nothing_left(pair)


def test_stream_that_never_left_is_reset_without_a_word() -> None:
    pair = SessionPair()
    stream = pair.caller.open(TAG, b"secret", end=True)
    pair.caller.reset(stream, ResetCode.CANCEL)
    assert pair.send(pair.caller) == []
    assert_nothing_left(pair)


def test_reset_overtakes_what_is_unsent() -> None:
    pair = SessionPair()
    caller, _ = open_stream(pair)
    pair.caller.write(caller, TAG, bytes(2 * MAX_BATCH))
    pair.caller.reset(caller, ResetCode.CANCEL)
    assert kinds(pair.send(pair.caller)) == ["RESET"]
    assert caller.unsent == 0
    assert_nothing_left(pair)


def test_long_reason_is_cut() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair)
    pair.caller.reset(caller, ResetCode.CANCEL, "x" * 100_000)
    pair.exchange()
    assert isinstance(replica.error, StreamReset)
    assert len(replica.error.reason) == MAX_REASON


def test_abort_comes_behind_what_was_written() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, end=True)
    pair.replica.write(replica, TAG, bytes(3 * MAX_FRAME))
    pair.replica.abort(replica, ResetCode.INTERNAL_ERROR, "broke")
    pair.exchange()

    assert messages(read_all(caller)) == [bytes(3 * MAX_FRAME)]
    assert isinstance(caller.error, StreamReset)
    assert_nothing_left(pair)


def test_abort_with_nothing_written_is_a_reset() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, end=True)
    pair.replica.abort(replica, ResetCode.INTERNAL_ERROR, "broke")
    assert kinds(pair.send(pair.replica)) == ["RESET"]
    pair.deliver(pair.caller)
    assert isinstance(caller.error, StreamReset)
    assert_nothing_left(pair)


@pytest.mark.parametrize("sent", [False, True], ids=["queued", "sent"])
def test_close_tells_each_stream_whether_it_can_have_been_started(sent: bool) -> None:
    pair = SessionPair(make_stream=Recorded)
    streams = [pair.caller.open(TAG, b"", end=True) for _ in range(2)]
    if sent:
        pair.send(pair.caller)
    pair.caller.close("cut")

    errors = [stream.error for stream in streams]
    assert [(type(error), str(error)) for error in errors] == [(ConnectionLost, "cut")] * 2
    assert [error.sent for error in errors if isinstance(error, ConnectionLost)] == [sent] * 2
    assert errors[0] is not errors[1]
    assert not pair.caller.streams
    assert taken(pair.caller) == []


def test_nothing_opens_after_close() -> None:
    pair = SessionPair()
    pair.caller.close("cut")
    pair.caller.close("again")
    with pytest.raises(ConnectionLost, match="cut") as caught:
        pair.caller.open(TAG, b"", end=True)
    assert not caught.value.sent


def test_what_arrived_before_an_early_end_can_still_be_read() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair)
    pair.replica.write(replica, TAG, b"first")
    pair.exchange()
    pair.replica.reset(replica, ResetCode.INTERNAL_ERROR)
    pair.exchange()
    assert messages(read_all(caller)) == [b"first"]


def test_ended_early_may_end_other_streams() -> None:
    """As where the end of a request cancels those that it made."""

    class Cascading(StreamCore):
        def ended_early(self) -> None:
            for stream in list(self.session.streams.values()):
                self.session.reset(stream, ResetCode.CANCEL)

    pair = SessionPair(make_stream=Cascading)
    for _ in range(3):
        pair.caller.open(TAG, b"", end=True)
    pair.caller.receive([Frame(type=GOAWAY, last_stream_id=0)])
    assert not pair.caller.streams

    pair = SessionPair(make_stream=Cascading)
    for _ in range(3):
        pair.caller.open(TAG, b"", end=True)
    pair.caller.close("cut")
    assert not pair.caller.streams


# Draining


def test_goaway_refuses_new_streams_and_lets_open_ones_finish() -> None:
    pair = SessionPair()
    caller, replica = open_stream(pair, end=True)
    pair.replica.goaway("stopping")
    pair.exchange()
    with pytest.raises(StreamRefused):
        pair.caller.open(TAG, b"", end=True)
    pair.replica.write(replica, TAG, b"done", end=True)
    pair.exchange()

    assert messages(read_all(caller)) == [b"done"]
    assert_nothing_left(pair)


def test_goaway_refuses_what_is_under_way_and_what_is_queued() -> None:
    opened: list[StreamCore] = []
    pair = SessionPair(on_open=opened.append)
    under_way = pair.caller.open(TAG, b"", end=True)
    pair.send(pair.caller)
    queued = pair.caller.open(TAG, b"", end=True)
    pair.replica.goaway("stopping")
    pair.exchange()

    assert opened == []
    assert [type(stream.error) for stream in (under_way, queued)] == [StreamRefused] * 2
    assert str(queued.error) == "stopping"
    assert_nothing_left(pair)


def test_goaway_is_said_once() -> None:
    pair = SessionPair()
    pair.replica.goaway()
    pair.replica.goaway()
    assert kinds(pair.send(pair.replica)) == ["GOAWAY"]


@pytest.mark.parametrize("ending", ["end", "reset by the caller", "reset by the replica"])
def test_last_stream_of_a_draining_session_wakes_it(ending: str) -> None:
    """However it ends: the writer waits for it, to end the connection."""
    pair = SessionPair()
    caller, replica = open_stream(pair, end=True)
    pair.replica.goaway()
    pair.exchange()
    woken: list[None] = []
    pair.replica._wake = lambda: woken.append(None)
    if ending == "end":
        pair.replica.write(replica, TAG, b"", end=True)
    elif ending == "reset by the caller":
        pair.caller.reset(caller, ResetCode.CANCEL)
    else:
        pair.replica.reset(replica, ResetCode.CANCEL)
    pair.exchange()
    assert woken
    assert not pair.replica.streams


# Windows


def test_sender_stops_at_the_window_and_goes_on_as_the_reader_reads() -> None:
    pair = SessionPair(window=MIN_WINDOW)
    caller, replica = open_stream(pair)
    pair.caller.write(caller, TAG, bytes(10 * MIN_WINDOW), end=True)
    pair.exchange()
    held = sum(len(part.data) + FRAME_OVERHEAD for part in replica.inbox)
    assert MIN_WINDOW // 2 < held <= MIN_WINDOW + FRAME_OVERHEAD  # OPEN's empty frame is free
    assert caller.pending

    read: list[Part] = []
    while not replica.receive_ended or replica.inbox:
        before = len(read)
        read += read_all(replica)
        assert len(read) > before
        pair.exchange()
    assert messages(read) == [b"", bytes(10 * MIN_WINDOW)]


def test_window_is_granted_anew_on_reading_not_on_arrival() -> None:
    pair = SessionPair(window=MIN_WINDOW)
    caller, replica = open_stream(pair)
    pair.caller.write(caller, TAG, bytes(MAX_FRAME))
    pair.exchange()
    assert pair.send(pair.replica) == []
    read_all(replica)
    (grant,) = pair.send(pair.replica)
    assert grant.window_increment == MAX_FRAME + FRAME_OVERHEAD


def test_nothing_is_granted_to_a_peer_that_has_ended() -> None:
    pair = SessionPair(window=MIN_WINDOW)
    caller, replica = open_stream(pair)
    pair.caller.write(caller, TAG, bytes(MAX_FRAME), end=True)
    pair.exchange()
    read_all(replica)
    assert pair.send(pair.replica) == []


def test_callers_window_travels_with_open() -> None:
    pair = SessionPair(window=MIN_WINDOW)
    _, replica = open_stream(pair, end=True)
    assert replica.send_credit == MIN_WINDOW


def test_empty_frames_are_not_free() -> None:
    pair = SessionPair(window=MIN_WINDOW)
    caller, replica = open_stream(pair)
    for _ in range(2 * MIN_WINDOW // FRAME_OVERHEAD):
        pair.caller.write(caller, TAG, b"")
    pair.exchange()
    assert len(replica.inbox) == MIN_WINDOW // FRAME_OVERHEAD + 1


def test_writer_is_told_to_wait_above_the_high_water_and_once_when_below() -> None:
    pair = SessionPair(make_stream=Recorded)
    caller, _ = open_stream(pair)
    told(caller).clear()
    pair.caller.write(caller, TAG, bytes(HIGH_WATER - FRAME_OVERHEAD))
    below = caller.must_wait
    pair.caller.write(caller, TAG, b"x")
    above = caller.must_wait
    pair.exchange()

    assert (below, above, caller.must_wait) == (False, True, False)
    assert told(caller) == ["writable"]
    assert caller.unsent == 0


# Batches


@pytest.mark.parametrize("first", [0, 1, MAX_FRAME, MAX_FRAME + 1], ids="open {}".format)
@pytest.mark.parametrize("size", [0, 1, MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, 3 * MAX_FRAME])
def test_message_of_any_size_arrives_whole(size: int, first: int) -> None:
    pair = SessionPair()
    sent = [bytes([size % 251]) * first, bytes([size % 253]) * size, b"last"]
    caller, replica = open_stream(pair, sent[0])
    for data in sent[1:]:
        pair.caller.write(caller, TAG, data, end=data == b"last")
    pair.exchange()

    parts = read_all(replica)
    assert messages(parts) == sent
    assert {part.tag for part in parts} == {TAG}
    assert max(len(part.data) for part in parts) <= MAX_FRAME
    assert [part.end for part in parts] == [False] * (len(parts) - 1) + [True]


def test_batch_is_bounded_in_bytes() -> None:
    pair = SessionPair()
    for _ in range(20):
        pair.caller.open(TAG, bytes(MAX_FRAME), end=True)
    sizes = []
    while frames := pair.send(pair.caller):
        sizes.append(sum(len(frame.data) for frame in frames))
    assert sum(sizes) == 20 * MAX_FRAME
    assert max(sizes) <= MAX_BATCH + MAX_FRAME


def test_batch_of_small_frames_is_bounded_too() -> None:
    pair = SessionPair()
    for _ in range(10_000):
        pair.caller.open(TAG, b"", end=True)
    batch = pair.send(pair.caller)
    assert len(batch) <= MAX_BATCH // FRAME_OVERHEAD + 1


def test_batch_of_resets_fits_a_grpc_message() -> None:
    """gRPC takes 4 MiB at most: a larger message would end the connection, with all streams."""
    pair = SessionPair()
    for _ in range(2_000):
        pair.caller.open(TAG, b"", end=True)
    pair.exchange()
    for stream in list(pair.replica.streams.values()):
        pair.replica.reset(stream, ResetCode.INTERNAL_ERROR, "\N{WARNING SIGN}" * MAX_REASON)
    sizes = []
    while frames := pair.send(pair.replica):
        sizes.append(sum(frame.ByteSize() for frame in frames))
    assert max(sizes) <= MAX_BATCH + MAX_FRAME
    assert_nothing_left(pair)


def test_large_upload_delays_a_small_request_by_one_frame() -> None:
    pair = SessionPair()
    uploads = [open_stream(pair)[0] for _ in range(3)]
    for upload in uploads:
        pair.caller.write(upload, TAG, bytes(8 * MAX_FRAME))
    pair.send(pair.caller, max_bytes=1)
    small = pair.caller.open(TAG, b"quick", end=True)

    sent: list[int] = []
    while small.id not in sent:
        sent += [frame.stream_id for frame in pair.send(pair.caller, max_bytes=1)]
    assert len(sent) <= len(uploads) + 1
    assert len(set(sent)) == len(sent)


def test_streams_take_turns() -> None:
    pair = SessionPair()
    ids = [open_stream(pair)[0].id for _ in range(3)]
    for stream in list(pair.caller.streams.values()):
        pair.caller.write(stream, TAG, bytes(4 * MAX_FRAME))
    order = []
    while frames := pair.send(pair.caller):
        order += [frame.stream_id for frame in frames]
    assert order == ids * 4


def test_frames_of_control_go_first() -> None:
    pair = SessionPair()
    first, _ = open_stream(pair)
    second, _ = open_stream(pair)
    pair.caller.write(first, TAG, b"data")
    pair.caller.reset(second, ResetCode.CANCEL)
    assert kinds(pair.send(pair.caller)) == ["RESET", "DATA"]


def test_blocked_stream_does_not_hold_up_others() -> None:
    pair = SessionPair(window=MIN_WINDOW)
    blocked, _ = open_stream(pair)
    pair.caller.write(blocked, TAG, bytes(4 * MIN_WINDOW))
    pair.exchange()
    _, replica = open_stream(pair, b"hello", end=True)
    assert messages(read_all(replica)) == [b"hello"]


def test_session_wakes_its_writer_when_there_is_something_to_send() -> None:
    woken: list[None] = []
    session = Session(wake=lambda: woken.append(None))
    stream = session.open(TAG, b"", end=False)
    assert len(woken) == 1
    taken(session)
    session.write(stream, TAG, b"no credit yet")
    taken(session)
    woken.clear()
    session.receive([Frame(stream_id=1, type=WINDOW_UPDATE, window_increment=1000)])
    assert len(woken) == 1
    taken(session)
    session.reset(stream, ResetCode.CANCEL)
    assert len(woken) == 2


def test_errors_of_the_streams_are_told_apart_by_what_a_caller_may_do() -> None:
    assert issubclass(StreamError, Exception)
    assert str(StreamReset(4711)) == "code 4711"
    assert str(StreamReset(ResetCode.CANCEL)) == "CANCEL"
    assert not issubclass(ProtocolError, StreamError)


def test_repr_tells_the_state() -> None:
    pair = SessionPair()
    caller, _ = open_stream(pair)
    assert "streams=1" in repr(pair.caller)
    assert f"StreamCore {caller.id}" in repr(caller)
