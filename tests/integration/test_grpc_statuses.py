"""How gRPC calls end, and what travels beside their messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import serving
from serving.exceptions import DeploymentFailedError
from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.protos import failed, probe, probe_grpc, to
from tests.support.record import Record

GRPC_OPTIONS: dict[str, Any] = {}
TIMEOUT_S = 20.0
FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
DETAILS = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
"""Of the case special_status_message of gRPC's interoperability tests."""
TRAILERS = {"x-first": "1", "x-second": "two"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("statuses")


@pytest.fixture(scope="module")
def gate(folder: Path) -> Gate:
    gate = Gate(folder / "gate")
    gate.path.touch()
    return gate


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    return Record(folder / "record")


@pytest.fixture(scope="module", autouse=True)
def statuses(cluster: Cluster, gate: Gate, record: Record) -> Iterator[None]:
    application = grpc_probe.Statuses.bind(grpc_probe.Narrow.bind(gate, record))
    with cluster.running_for_grpc(statuses=application):
        yield


def waiting(stub: Any, **metadata: str) -> Any:
    """A call that the deployment behind the ingress answers."""
    options = {"metadata": to("statuses", **metadata), "timeout": TIMEOUT_S}
    return stub.Wait.future(probe.Request(), **options)


def failure_of(stub: Any, method: str, request: Any, **metadata: str) -> Any:
    """How a call of the application "statuses" failed."""
    metadata_of_call = to("statuses", **metadata)

    def call() -> None:
        answer = getattr(stub, method)(request, metadata=metadata_of_call, timeout=TIMEOUT_S)
        if isinstance(answer, Iterator):
            list(answer)

    return failed(call)


def trailers_of(call: Any) -> dict[str, str | bytes]:
    return dict(call.trailing_metadata())


def wish(code: grpc.StatusCode, how: str, **fields: Any) -> Any:
    given = {"details": DETAILS, "trailers": TRAILERS, **fields}
    return probe.Failure(code=code.value[0], how=how, **given)


# What the user's code says.


@pytest.mark.parametrize("how", ["set", "abort", "set and raise"])
def test_status_of_the_handler_arrives_intact(stub: Any, how: str) -> None:
    for code in FAILURES:
        failure = failure_of(stub, "Fail", wish(code, how))

        assert (failure.code(), failure.details()) == (code, DETAILS)
        assert trailers_of(failure).items() >= TRAILERS.items()


@pytest.mark.parametrize("how", ["set", "abort", "set and raise"])
def test_status_of_the_handler_arrives_intact_after_messages(stub: Any, how: str) -> None:
    request = wish(grpc.StatusCode.DATA_LOSS, how, after=3)
    replies = stub.FailMidway(request, metadata=to("statuses"), timeout=TIMEOUT_S)

    assert [next(replies).number for _ in range(3)] == [0, 1, 2]
    failure = failed(lambda: next(replies))
    assert (failure.code(), failure.details()) == (grpc.StatusCode.DATA_LOSS, DETAILS)
    assert trailers_of(failure).items() >= TRAILERS.items()


def test_trailers_come_with_success_too(stub: Any) -> None:
    reply, call = stub.Fail.with_call(
        wish(grpc.StatusCode.OK, "set"), metadata=to("statuses"), timeout=TIMEOUT_S
    )

    assert reply.text == "answered all the same"
    assert call.code() is grpc.StatusCode.OK
    assert trailers_of(call).items() >= TRAILERS.items()


async def test_status_arrives_intact_at_an_asynchronous_client(aio_stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await aio_stub.Fail(wish(grpc.StatusCode.ABORTED, "set"), metadata=to("statuses"))

    error = failure.value
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, DETAILS)
    assert dict(error.trailing_metadata()).items() >= TRAILERS.items()


# Exceptions.


@pytest.mark.parametrize("method", ["Fail", "FailMidway"])
def test_exception_is_an_internal_error_that_tells_nothing_but_the_request_id(
    cluster: Cluster, stub: Any, method: str
) -> None:
    request_id = f"raises-in-{method}"
    request = probe.Failure(how="raise", details="of the house", after=1)
    failure = failure_of(stub, method, request, request_id=request_id)

    assert failure.code() is grpc.StatusCode.INTERNAL
    assert failure.details() == f"Internal Server Error (request id {request_id})"
    assert trailers_of(failure) == {"request_id": request_id}
    cluster.logged(rf"request_id={request_id} (.*\n)+?Traceback(.*\n)+?.*the secret of the house")


def test_exception_after_set_code_leaves_the_code(cluster: Cluster, stub: Any) -> None:
    request = wish(grpc.StatusCode.NOT_FOUND, "code and raise")
    failure = failure_of(stub, "Fail", request, request_id="code-and-raise")

    assert (failure.code(), failure.details()) == (grpc.StatusCode.NOT_FOUND, "")
    cluster.logged(r"request_id=code-and-raise (.*\n)+?.*ValueError: the secret")


def test_reply_of_the_wrong_type_is_an_internal_error(cluster: Cluster, stub: Any) -> None:
    """Statuses.Many yields a reply, then a request."""
    replies = stub.Many(
        probe.Request(), metadata=to("statuses", request_id="wrong-type"), timeout=TIMEOUT_S
    )
    assert next(replies).number == 1
    failure = failed(lambda: next(replies))

    assert failure.code() is grpc.StatusCode.INTERNAL
    assert failure.details() == "Internal Server Error (request id wrong-type)"
    cluster.logged(r"request_id=wrong-type ")


# Limits.


def test_trailers_are_capped_from_the_largest(cluster: Cluster, stub: Any) -> None:
    trailers = {"x-small": "small", "x-huge": "h" * 20_000, "x-large": "l" * 3_000}
    request = wish(grpc.StatusCode.ABORTED, "set", trailers=trailers)
    failure = failure_of(stub, "Fail", request, request_id="many-trailers")

    assert (failure.code(), failure.details()) == (grpc.StatusCode.ABORTED, DETAILS)
    assert trailers_of(failure) == {
        "x-small": "small",
        "x-large": "l" * 3_000,
        "request_id": "many-trailers",
    }
    cluster.logged(r"WARNING .*request_id=many-trailers .*x-huge")


def test_details_are_capped(stub: Any) -> None:
    failure = failure_of(stub, "Fail", wish(grpc.StatusCode.ABORTED, "set", details="☺" * 30_000))

    assert failure.code() is grpc.StatusCode.ABORTED
    assert re.fullmatch("☺{300,341}…", failure.details())


def test_request_that_is_no_message_is_an_error_of_the_client(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        method: Any = channel.unary_unary("/probe.Probe/Fail")
        failure = failed(
            lambda: method(b"\xff\xff\xff", metadata=to("statuses"), timeout=TIMEOUT_S)
        )

    assert failure.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
    assert "Traceback" not in failure.details()


# Who is to answer.


def test_only_application_needs_no_name(cluster: Cluster, stub: Any) -> None:
    assert stub.Inspect(probe.Request(), timeout=TIMEOUT_S).application == "statuses"

    with cluster.running_for_grpc(plain=grpc_probe.Plain.bind()):
        failure = failed(lambda: stub.Inspect(probe.Request(), timeout=TIMEOUT_S))
    assert failure.code() is grpc.StatusCode.NOT_FOUND
    assert "plain" in failure.details()
    assert "statuses" in failure.details()


def test_unknown_application_is_not_found_and_the_others_are_named(stub: Any) -> None:
    failure = failed(lambda: stub.One(probe.Request(), metadata=to("nobody"), timeout=TIMEOUT_S))

    assert failure.code() is grpc.StatusCode.NOT_FOUND
    assert "'nobody'" in failure.details()
    assert "'statuses'" in failure.details()
    assert "request_id" in trailers_of(failure)


def test_interop_unimplemented_method(stub: Any) -> None:
    """The services have it, the deployment does not."""
    failure = failure_of(stub, "Nobody", probe.Request())

    assert failure.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Nobody" in failure.details()
    assert "Statuses" in failure.details()


@pytest.mark.parametrize("name", ["/probe.Probe/Unheard", "/no.Such/Service"])
def test_interop_unimplemented_service(cluster: Cluster, name: str) -> None:
    """No service of the cluster has it."""
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        method: Any = channel.unary_unary(name)
        failure = failed(lambda: method(b"", metadata=to("statuses"), timeout=TIMEOUT_S))

    assert failure.code() is grpc.StatusCode.UNIMPLEMENTED


def test_deployment_that_cannot_start_is_unavailable(cluster: Cluster, stub: Any) -> None:
    with pytest.raises(DeploymentFailedError):
        serving.run(grpc_probe.Broken.bind(), name="broken", route_prefix=None)
    failure = failed(lambda: stub.One(probe.Request(), metadata=to("broken"), timeout=TIMEOUT_S))
    serving.delete("broken")

    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert "never constructed" not in failure.details()


def test_full_deployment_behind_the_ingress_is_exhausted(
    stub: Any, gate: Gate, record: Record
) -> None:
    until(lambda: waiting(stub).exception() is None)  # the ingress knows what it calls
    record.path.unlink()
    with gate.closed():
        first = waiting(stub)
        record.wait_for("full")
        failure = failed(waiting(stub).result)

    assert first.result().text == "done"
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Metadata.


def test_handler_knows_its_call(stub: Any) -> None:
    own = (("x-text", "text"), ("x-data-bin", b"\0\xff"))
    metadata = to("statuses", *own, multiplexed_model_id="m-1", request_id="of-the-test")
    seen = stub.Inspect(probe.Request(), metadata=metadata, timeout=TIMEOUT_S)

    assert (seen.application, seen.multiplexed_model_id) == ("statuses", "m-1")
    assert seen.request_id == "of-the-test"
    assert dict(seen.metadata).items() >= {"x-text": "text", "x-data-bin": "00ff"}.items()
    assert re.match(r"ipv[46]:.*:\d+$", seen.peer)
    assert TIMEOUT_S - 5 < seen.time_remaining_s <= TIMEOUT_S * 1.01  # gRPC rounds it up


def test_call_without_a_deadline_has_no_time_remaining(stub: Any) -> None:
    assert stub.Inspect(probe.Request(), metadata=to("statuses")).time_remaining_s == -1


def test_request_id_is_made_where_the_client_sent_none(stub: Any) -> None:
    seen, call = stub.Inspect.with_call(probe.Request(), metadata=to("statuses"), timeout=TIMEOUT_S)

    assert re.fullmatch("[0-9a-f]{32}", seen.request_id)
    assert trailers_of(call) == {"request_id": seen.request_id}


def test_request_id_stands_in_the_logs_of_the_proxy_and_of_all_replicas(
    cluster: Cluster, stub: Any
) -> None:
    until(lambda: waiting(stub).exception() is None)  # the ingress knows what it calls
    call = waiting(stub, request_id="down-the-graph", multiplexed_model_id="m-1")
    call.result()

    assert trailers_of(call)["request_id"] == "down-the-graph"
    cluster.logged(r"#Statuses#\S+ request_id=down-the-graph .*-- statuses waits$")
    cluster.logged(r"#Narrow#\S+ request_id=down-the-graph .*-- narrow waits$")
    name = "/probe.Probe/Wait"
    cluster.logged(rf"-- statuses {name} gRPC {name} OK \S+ms down-the-graph model_id=m-1$")


def test_failures_stand_in_the_access_log_by_the_name_of_their_code(
    cluster: Cluster, stub: Any
) -> None:
    failure_of(stub, "Fail", wish(grpc.StatusCode.DATA_LOSS, "set"), request_id="lost")
    failed(lambda: stub.One(probe.Request(), metadata=to("nobody", request_id="gone")))

    cluster.logged(r"gRPC /probe.Probe/Fail DATA_LOSS \S+ms lost$")
    cluster.logged(r"gRPC /probe.Probe/One NOT_FOUND \S+ms gone$")


def test_interop_custom_metadata(stub: Any) -> None:
    sent = (("x-initial", "test_initial_metadata_value"), ("x-trailing-bin", b"\xab\xab\xab"))
    metadata = (*to("statuses"), *sent)

    _, call = stub.One.with_call(probe.Request(), metadata=metadata, timeout=TIMEOUT_S)
    assert sent[0] in list(call.initial_metadata())
    assert sent[1] in list(call.trailing_metadata())

    chat = stub.Chat(iter([probe.Request()]), metadata=metadata, timeout=TIMEOUT_S)
    assert len(list(chat)) == 1
    assert sent[0] in list(chat.initial_metadata())
    assert sent[1] in list(chat.trailing_metadata())


def test_services_of_other_names_share_the_applications_methods(cluster: Cluster) -> None:
    """Where two services are served, a deployment that lacks one's methods says so."""
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        stub = probe_grpc.OtherStub(channel)
        failure = failed(
            lambda: stub.Ping(probe.Request(), metadata=to("statuses"), timeout=TIMEOUT_S)
        )

    assert failure.code() is grpc.StatusCode.UNIMPLEMENTED
