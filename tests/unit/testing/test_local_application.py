"""What is particular to applications in the test's own process; the rest runs in both modes."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import StreamingResponse

import serving
import serving.testing
from serving.exceptions import (
    ApplicationConflictError,
    BackPressureError,
    ClusterError,
    CodeNotPortableError,
    DeploymentFailedError,
    ServingError,
)
from serving.testing import run
from tests.support.control import until

TIMEOUT_S = 5.0


@serving.deployment
class Echo:
    def __init__(self, value: Any = None) -> None:
        self.value = value

    async def __call__(self, request: Request) -> Any:
        return {"path": request.url.path, "body": (await request.body()).decode()}

    async def give(self, value: Any) -> Any:
        return value

    def who(self) -> str:
        return serving.get_replica_context().replica_id


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    # Others are of the test's own event loop.
    ours = ("serving-local", "AnyIO")
    assert until(lambda: not any(each.name.startswith(ours) for each in threading.enumerate()))


def test_application_answers_calls_and_requests() -> None:
    with run(Echo.bind()) as app, app.client() as client:
        assert app.handle.give.remote(3).result(TIMEOUT_S) == 3
        response = client.post("/a%20b", content="hello")

    assert response.json() == {"path": "/a b", "body": "hello"}
    assert response.headers["x-request-id"]


async def test_application_answers_async_code() -> None:
    async with run(Echo.bind()) as app, app.async_client() as client:
        assert await app.handle.give.remote(3) == 3
        assert (await client.get("/x")).json()["path"] == "/x"


def test_class_is_the_live_one_and_arguments_are_the_very_objects() -> None:
    fake: Any = MagicMock()
    seen: list[Any] = []

    @serving.deployment
    class Local:
        def __init__(self, fake: Any) -> None:
            self.fake = fake
            seen.append(self)

        async def call(self) -> int:
            self.fake.note(1)
            return 1

    with run(Local.bind(fake), route_prefix=None) as app:
        assert app.handle.call.remote().result(TIMEOUT_S) == 1
        assert app.instances("Local") == seen
        assert type(seen[0]) is Local.func_or_class

    fake.note.assert_called_once_with(1)


def test_bound_deployments_become_handles_wherever_they_stand() -> None:
    class Box:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

    leaf, plain = Echo.bind(), ["untouched"]
    box = Box({"k": (leaf,)})

    with run(Echo.options(name="Root").bind([box, [leaf], plain])) as app:
        (root,) = app.instances("Root")
        new_box, leaves, same = root.value

    assert new_box.inner["k"][0] == leaves[0]
    assert leaves[0].deployment_name == "Echo"
    assert box.inner == {"k": (leaf,)}
    assert same is plain


def test_arguments_of_calls_must_be_picklable_as_for_a_process() -> None:
    with (
        run(Echo.bind()) as app,
        pytest.raises(CodeNotPortableError),
        ThreadPoolExecutor() as executor,
    ):
        app.handle.give.remote(executor.submit(int))


def test_every_replica_has_its_own_instance_and_context() -> None:
    with run(Echo.options(num_replicas=3).bind()) as app:
        names = {app.handle.who.remote().result(TIMEOUT_S) for _ in range(50)}
        assert len(names) > 1
        assert len({id(instance) for instance in app.instances("Echo")}) == 3

    with pytest.raises(RuntimeError, match="outside of a replica"):
        serving.get_replica_context()


def test_constructor_that_fails_raises_with_its_traceback() -> None:
    @serving.deployment
    class Broken:
        def __init__(self) -> None:
            raise LookupError("no weights")

    with pytest.raises(DeploymentFailedError, match="no weights") as raised:
        run(Broken.bind(), route_prefix=None)

    assert "in __init__" in str(raised.value)
    assert isinstance(raised.value.__cause__, LookupError)


@pytest.mark.parametrize("ends", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_constructor_that_ends_the_process_is_a_failure(ends: BaseException) -> None:
    @serving.deployment
    def never() -> None:
        """Never called."""

    @serving.deployment
    class Exits:
        def __init__(self, other: Any) -> None:
            raise ends

    with pytest.raises(DeploymentFailedError, match="ended its process"):
        run(Exits.bind(never.bind()), route_prefix=None)


def test_applications_of_one_name_do_not_see_each_other() -> None:
    with run(Echo.bind()) as one, run(Echo.bind()) as two:
        names = [app.handle.who.remote().result(TIMEOUT_S) for app in (one, two)]
        contexts = [app.instances("Echo") for app in (one, two)]

    assert names[0] != names[1]
    assert contexts[0] != contexts[1]
    with pytest.raises(ClusterError, match="has ended"):
        one.handle.who.remote()


@pytest.mark.alone
def test_application_starts_within_50_ms() -> None:
    with run(Echo.bind()):
        pass  # what is imported when first used, is by now
    took_s = []
    for _ in range(5):
        began_at = time.perf_counter()
        with run(Echo.bind()) as app:
            app.handle.who.remote().result(TIMEOUT_S)
            took_s.append(time.perf_counter() - began_at)

    assert min(took_s) < 0.05


def test_object_is_let_go_at_the_end() -> None:
    with run(Echo.bind()) as app:
        app.handle.who.remote().result(TIMEOUT_S)
        seen = weakref.ref(app.instances("Echo")[0])
    del app

    assert until(lambda: gc.collect() is not None and seen() is None)


def test_files_are_closed_when_many_have_run() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with run(Echo.bind()):
            pass

    assert len(os.listdir("/proc/self/fd")) <= before


def test_applications_run_side_by_side_in_threads() -> None:
    def work(number: int) -> Any:
        with run(Echo.bind()) as app, app.client() as client:
            assert client.get(f"/{number}").json()["path"] == f"/{number}"
            return app.handle.give.remote(number).result(TIMEOUT_S)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(24))) == list(range(24))


# HTTP


@serving.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Streamer:
    def __init__(self) -> None:
        self.made = 0
        self.cancelled = threading.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, request: Request) -> Any:
        if request.method == "PUT":
            return [len(chunk) async for chunk in request.stream()]
        if request.query_params.get("wait"):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return StreamingResponse(self.count(request.query_params.get("fail")))

    async def count(self, fail: str | None) -> AsyncIterator[bytes]:
        try:
            while True:
                self.made += 1
                yield b"x" * 1000
                if fail:
                    raise ValueError("in the middle")
                if self.made == 1:
                    await self.go_on.wait()
        finally:
            self.cancelled.set()


@pytest.fixture
def streaming() -> Iterator[Any]:
    with run(Streamer.bind(), request_timeout_s=TIMEOUT_S) as app:
        yield app


def test_chunks_arrive_as_they_are_made_and_a_slow_reader_stops_them(streaming: Any) -> None:
    (streamer,) = streaming.instances("Streamer")
    with streaming.client() as client, client.stream("GET", "/") as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"x" * 1000
        assert streamer.made == 1
        streaming._cluster.loop.call_soon_threadsafe(streamer.go_on.set)
        assert until(lambda: streamer.made > 100)
        made, deadline = streamer.made, time.monotonic() + 0.3
        while time.monotonic() < deadline and streamer.made != made:
            made = streamer.made
        assert streamer.made < 5000

    assert streamer.cancelled.wait(TIMEOUT_S)


async def test_async_client_that_is_cancelled_cancels_the_handler(streaming: Any) -> None:
    (streamer,) = streaming.instances("Streamer")
    async with streaming.async_client() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.get("/?wait=1")

    assert await asyncio.to_thread(streamer.cancelled.wait, TIMEOUT_S)


def test_read_timeout_of_the_client_cancels_the_handler(streaming: Any) -> None:
    (streamer,) = streaming.instances("Streamer")
    with streaming.client(timeout=0.1) as client, pytest.raises(httpx.ReadTimeout):
        client.get("/?wait=1")

    assert streamer.cancelled.wait(TIMEOUT_S)


def test_request_timeout_is_answered_with_408() -> None:
    with run(Streamer.bind(), request_timeout_s=0.1) as app, app.client() as client:
        assert client.get("/?wait=1").status_code == 408


def test_full_queue_is_answered_with_503_and_an_error(streaming: Any) -> None:
    with streaming.client() as client, client.stream("GET", "/") as response:
        assert response.status_code == 200
        refused = client.get("/")
        with pytest.raises(BackPressureError):
            streaming.handle.remote().result(TIMEOUT_S)

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_response_that_breaks_off_is_a_protocol_error(streaming: Any) -> None:
    with streaming.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/?fail=1")


def test_body_that_is_streamed_arrives_in_its_chunks(streaming: Any) -> None:
    with streaming.client() as client:
        sizes = client.put("/", content=iter([b"a" * 3, b"b" * 200_000, b"c"])).json()

    assert sum(sizes) == 200_004


async def test_body_that_is_streamed_by_async_code_arrives(streaming: Any) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"de"

    async with streaming.async_client() as client:
        assert sum((await client.put("/", content=body())).json()) == 5


def test_what_has_no_route_is_404_and_a_client_of_an_ended_application_fails() -> None:
    with run(Echo.bind(), route_prefix="/api") as app:
        client = app.client()
        assert client.get("/other").status_code == 404
        assert client.get("/api/x").json()["path"] == "/api/x"
    with pytest.raises(httpx.ConnectError):
        client.get("/api")
    client.close()


def test_missing_httpx_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "serving.testing.httpx_transport", raising=False)
    monkeypatch.delattr(serving.testing, "httpx_transport", raising=False)
    with run(Echo.bind()) as app, pytest.raises(ServingError, match=r"serving\[testing\]"):
        app.client()


# serving.run(..., _local_testing_mode=True)


@pytest.fixture
def _shut_down() -> Iterator[None]:
    yield
    serving.shutdown()


@pytest.mark.usefixtures("_shut_down")
def test_script_mode_has_the_functions_of_a_cluster() -> None:
    handle = serving.run(Echo.bind(), name="one", route_prefix="/one", _local_testing_mode=True)
    serving.run(Echo.bind(), name="two", route_prefix="/two", _local_testing_mode=True)

    assert serving.status().applications["one"].status == "RUNNING"
    assert serving.get_app_handle("one") == handle == serving.get_deployment_handle("Echo", "one")
    with pytest.raises(ApplicationConflictError):
        serving.run(Echo.bind(), name="three", route_prefix="/two", _local_testing_mode=True)
    with pytest.raises(ClusterError, match="local testing mode"):
        serving.run(Echo.bind())
    first = handle.who.remote().result(TIMEOUT_S)
    serving.run(Echo.bind(), name="one", route_prefix="/one", _local_testing_mode=True)
    assert handle.who.remote().result(TIMEOUT_S) != first
    serving.delete("one")
    with pytest.raises(ValueError, match="no application 'one'; there are: two"):
        serving.delete("one")


# An app that replicas share


@pytest.mark.parametrize("times", [1, 2])
def test_replicas_of_an_ingress_share_its_app(times: int) -> None:
    app = FastAPI()
    routes = list(app.routes)

    @serving.deployment(num_replicas=2)
    @serving.ingress(app)
    class Shop:
        def __init__(self) -> None:
            self.name = serving.get_replica_context().replica_id
            app.add_api_route("/added", self.who)

        @app.get("/who")
        def who(self) -> str:
            return self.name

    before = list(app.routes)
    for _ in range(times):
        with run(Shop.bind()) as shop, shop.client() as client:
            names = {instance.name for instance in shop.instances("Shop")}
            assert {client.get("/who").json() for _ in range(50)} == names
            assert {client.get("/added").json() for _ in range(50)} == names
        assert app.routes == before
    assert len(before) == len(routes) + 1


def test_classes_that_share_an_app_are_refused_side_by_side() -> None:
    app = FastAPI()

    @serving.deployment
    @serving.ingress(app)
    class One:
        @app.get("/one")
        def one(self) -> int:
            return 1

    @serving.deployment
    @serving.ingress(app)
    class Two:
        @app.get("/two")
        def two(self) -> int:
            return 2

    with (
        run(One.bind()) as one,
        one.client() as client,
    ):
        assert client.get("/one").json() == 1
        with pytest.raises(DeploymentFailedError, match="serve one app"):
            run(Two.bind())
        assert client.get("/one").json() == 1
    with run(Two.bind()) as two, two.client() as client:
        assert (client.get("/two").json(), client.get("/one").status_code) == (2, 404)
