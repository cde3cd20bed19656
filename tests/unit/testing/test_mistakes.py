"""What is wrong in code that calls deployments: each mistake is told with its cure."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

import serving
from serving.exceptions import CodeNotPortableError, DeploymentFailedError
from serving.testing import LocalApplication, run
from tests.support.control import until

TIMEOUT_S = 5.0


class HoldsLock:
    def __init__(self) -> None:
        self.inner = {"lock": threading.Lock()}


class LeavesLockOut(HoldsLock):
    def __getstate__(self) -> dict[str, Any]:
        return {}


def open_file() -> Any:
    return Path(__file__).open()


def unimportable(kind: type) -> Any:
    """An instance of a class that travels by value."""
    return type("Made", (kind,), {"__module__": __name__})()


@serving.deployment
class Model:
    async def __call__(self, value: Any = None, *, other: Any = None) -> Any:
        return value

    async def count(self, limit: int = 2) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    @serving.batch
    async def batched(self, values: list[int]) -> list[int]:
        return values


@serving.deployment
class Front:
    def __init__(self, model: Any) -> None:
        self.model = model

    async def __call__(self, request: Request) -> Any:
        match request.url.path:
            case "/request":
                return await self.model.remote(request)
            case "/stream":
                return StreamingResponse(self.model.count.remote())
            case "/nested":
                return {"a": [self.model.remote()]}
            case _:
                return self.model.remote()

    async def give_response(self) -> Any:
        return self.model.remote(1)

    async def give_responses(self) -> Any:
        return [self.model.remote(1)]

    async def give_stream(self) -> Any:
        return self.model.options(stream=True).count.remote()

    async def yield_response(self) -> AsyncIterator[Any]:
        yield self.model.remote(1)

    def give_handle(self) -> Any:
        return self.model

    async def await_handle(self) -> Any:
        return await self.model.method

    async def call_handle(self) -> Any:
        return self.model.method(3)

    async def iterate(self) -> Any:
        return [item async for item in self.model.count.remote()]

    async def give_lock(self) -> Any:
        return threading.Lock()


@pytest.fixture(scope="module")
def app() -> Iterator[LocalApplication]:
    with run(Front.bind(Model.bind())) as app:
        yield app


@pytest.fixture
def front(app: LocalApplication) -> Any:
    return app.handle


@pytest.fixture
def model(front: Any) -> Any:
    return front.give_handle.remote().result(TIMEOUT_S)


# What a method does


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "give_response",
            r"Front.give_response returned the response of Model.__call__: await it",
        ),
        ("give_responses", "returned the response of Model.__call__: await it before returning"),
        ("give_stream", "returned the stream of Model.count: iterate over it"),
        ("await_handle", r"Model.method is called with .remote\(...\): await that"),
        ("call_handle", r"Model.method is called with .remote\(...\)"),
        ("iterate", "the response of Model.count is one value: .*stream=True"),
        ("give_lock", "lock cannot be sent to a replica"),
    ],
)
def test_mistake_of_a_method_is_told_with_its_cure(front: Any, method: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        front.options(method_name=method).remote().result(TIMEOUT_S)


def test_response_that_is_yielded_is_told(front: Any) -> None:
    with pytest.raises(TypeError, match="yield_response yielded the response .*before yielding"):
        next(front.options(stream=True).yield_response.remote())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/", "DeploymentResponse cannot be sent over HTTP (it is not awaited); await it before"),
        ("/nested", "DeploymentResponse cannot be sent over HTTP (it is not awaited); await it"),
        ("/request", "Model.__call__, argument 1: a Request cannot be sent to a replica"),
    ],
)
def test_mistake_of_an_ingress_is_logged_as_one_error(
    app: LocalApplication, caplog: pytest.LogCaptureFixture, path: str, message: str
) -> None:
    with app.client() as client:
        assert client.get(path).status_code == 500

    assert until(lambda: message in caplog.text)
    assert caplog.text.count("Traceback") == (2 if path == "/request" else 1)


def test_response_that_is_streamed_to_a_client_is_told(
    app: LocalApplication, caplog: pytest.LogCaptureFixture
) -> None:
    with app.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/stream")

    message = "the response of Model.count is one value: await it; or call a generator with"
    assert until(lambda: message in caplog.text)


def test_blocking_in_a_plain_constructor_asks_for_an_async_one() -> None:
    @serving.deployment
    class Impatient:
        def __init__(self, model: Any) -> None:
            model.remote(1).result()

        def __call__(self) -> None: ...

    with pytest.raises(DeploymentFailedError, match="make the constructor `async def __init__`"):
        run(Impatient.bind(Model.bind()))


# What is given to a call


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (x for x in "a"), "argument 1: a generator .*Pass a list of its items"),
        (lambda: [(x for x in "a")], r"argument 1: a list .*list\[0\] is a generator.*Pass a list"),
        (threading.Lock, "argument 1: a lock cannot be sent.*Make that object in the replica"),
        (threading.Event, r"argument 1: an Event .*_cond"),
        (threading.Thread, "argument 1: a Thread cannot be sent"),
        (lambda: [threading.RLock()], r"argument 1: a list .*list\[0\] is a _thread.RLock"),
        (lambda: unimportable(HoldsLock), r"argument 1: a Made .*Made.inner\['lock'\]"),
        (lambda: Model.bind(), "argument 1: an Application .*Pass a handle"),
        (lambda: Model, "argument 1: .*Pass a handle"),
        (open_file, "argument 1: a TextIOWrapper .*Pass its path"),
    ],
)
def test_argument_that_cannot_be_sent_is_named(
    model: Any, make: Callable[[], Any], message: str
) -> None:
    value = make()
    try:
        with pytest.raises(CodeNotPortableError, match=rf"Model.__call__, {message}"):
            model.remote(value)
        with pytest.raises(CodeNotPortableError, match=r"Model.__call__, argument 'other': "):
            model.remote(1, other=value)
        with pytest.raises(CodeNotPortableError, match=r"Model.__call__, argument 'other': "):
            model.remote(model.remote(1), other=value).result(TIMEOUT_S)
    finally:
        getattr(value, "close", lambda: None)()


def test_what_leaves_its_lock_out_and_code_that_holds_one_are_sent(model: Any) -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    given = [unimportable(LeavesLockOut), locked]
    assert type(model.remote(given).result(TIMEOUT_S)[0]).__name__ == "Made"


def test_stream_as_an_argument_is_told(model: Any) -> None:
    stream = model.options(stream=True).count.remote()

    with pytest.raises(TypeError, match=r"Model.__call__: the stream of Model.count .*list of its"):
        model.remote([stream]).result(TIMEOUT_S)
    assert list(stream) == [0, 1]


@pytest.mark.parametrize(
    "make",
    [threading.Thread, lambda: [open_file()], "locked"],
    ids=["thread", "file", "lock"],
)
def test_argument_of_bind_that_belongs_to_its_process_is_named(make: Any) -> None:
    from serving.specs import application_spec

    lock = threading.Lock()
    with lock:
        value = lock if make == "locked" else make()
        with pytest.raises(CodeNotPortableError, match="'Keeper', argument 1 of bind: a .*process"):
            application_spec(Keeper.bind(value), "app", None)
    if isinstance(value, list):
        value[0].close()
    application_spec(Keeper.bind(lock), "app", None)


@serving.deployment
class Keeper:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> None: ...


# What is done with a handle

UNTYPED: Any = sys.modules[__name__]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: model(3), r"Model.__call__ is called with .remote\(...\)"),
        (lambda model: model.options(streem=True), r"no option 'streem' \(did you mean 'stream'"),
        (lambda model: model.options(multiplexed_model_id=3), "multiplexed_model_id must be a str"),
        (lambda model: list(model.count.remote()), "one value: .*stream=True"),
        (lambda model: model.options(stream=True).count.remote().result(), "count streams: iter"),
        (lambda model: model.batched.remote().result(), r"Model.batched\(values.*: missing"),
        (
            lambda model: UNTYPED.Model.remote(3),
            r"'Model' does not run: serve it with serving.run\(",
        ),
        (
            lambda model: UNTYPED.Model.bind().remote(3),
            r"Application\('Model'\) does not run: call the",
        ),
        (
            lambda model: UNTYPED.serving.start(detached=True),
            "'detached': the command `serving start`",
        ),
    ],
)
def test_mistake_with_a_handle_is_told_with_its_cure(
    model: Any, mistake: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        mistake(model)


def test_unknown_method_is_told_with_the_nearest(model: Any) -> None:
    with pytest.raises(AttributeError, match=r"no method 'cuont' \(did you mean 'count'\?\)"):
        model.cuont.remote().result(TIMEOUT_S)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_concurrent_queries", "called 'max_ongoing_requests'"),
        ("route_prefix", r"serving.run\(..., route_prefix"),
        ("version", "leave it out"),
    ],
)
def test_option_of_ray_serve_is_told_with_what_to_use(option: str, message: str) -> None:
    with pytest.raises(TypeError, match=f"unknown option '{option}': .*{message}.*migrating"):
        UNTYPED.serving.deployment(**{option: 1})(HoldsLock)
