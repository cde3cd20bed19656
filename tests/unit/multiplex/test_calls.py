"""`@serving.multiplexed` on methods and functions: loads, users, ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import serving
from serving.context import (
    ReplicaContext,
    ReplicaModels,
    RequestScope,
    _replica,
    current_request,
    enter_request,
    get_multiplexed_model_id,
)
from serving.exceptions import RequestCancelledError
from tests.support.mux import turn, until


class Model:
    def __init__(self, model_id: str, told: list[str]) -> None:
        self.id = model_id
        self._told = told

    def __del__(self) -> None:
        self._told.append(f"del {self.id}")


class ModelWithShutdown(Model):
    def shutdown(self) -> None:
        in_thread = threading.current_thread() is not threading.main_thread()
        self._told.append(f"shutdown {self.id} {in_thread}")


class ModelWithAsyncShutdown(Model):
    async def shutdown(self) -> None:
        await asyncio.sleep(0)
        self._told.append(f"shutdown {self.id}")


class Models:
    """Loads at once, or, while it is held, when it is told to."""

    def __init__(self, kind: type[Model] = Model) -> None:
        self.kind = kind
        self.told: list[str] = []
        self.loads: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    @serving.multiplexed(max_num_models_per_replica=2)
    async def get(self, model_id: str) -> Model:
        self.loads[model_id] += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.told.append(f"cancelled {model_id}")
            raise
        if self.error is not None:
            raise self.error
        return self.kind(model_id, self.told)

    @serving.multiplexed(max_num_models_per_replica=1)
    async def get_one(self, model_id: str) -> Model:
        return self.kind(model_id, self.told)


@contextmanager
def request() -> Iterator[RequestScope]:
    """Code inside is that of a request, which ends with it."""
    scope = RequestScope("r1", "/route", "app", "m")
    enter_request(scope)
    try:
        yield scope
    finally:
        enter_request(None)
        scope.end()


@contextmanager
def replica() -> Iterator[ReplicaModels]:
    context = ReplicaContext("app", "Model", "app#Model#1")
    token = _replica.set(context)
    try:
        yield context.models
    finally:
        _replica.reset(token)


# Loading


async def test_model_is_loaded_once_for_all_who_ask_for_it_meanwhile() -> None:
    models = Models()

    got = await asyncio.gather(*(models.get("m") for _ in range(100)), models.get(model_id="m"))
    assert len(set(map(id, got))) == 1
    assert models.loads == {"m": 1}


async def test_different_models_load_at_the_same_time() -> None:
    models = Models()
    models.open.clear()
    asking = [asyncio.ensure_future(models.get(name)) for name in ("a", "b", "c")]
    await until(lambda: len(models.loads) == 2)
    await turn()
    assert set(models.loads) == {"a", "b"}

    models.open.set()
    assert [model.id for model in await asyncio.gather(*asking)] == ["a", "b", "c"]


async def test_least_recently_asked_model_is_unloaded() -> None:
    models = Models()
    for name in ("a", "b", "a", "c"):
        await models.get(name)

    await until(lambda: models.told == ["del b"])
    await models.get("a")
    assert models.loads == {"a": 1, "b": 1, "c": 1}
    await models.get("b")
    assert models.loads == {"a": 1, "b": 2, "c": 1}


async def test_instances_have_models_of_their_own() -> None:
    first, second = Models(), Models()

    assert await first.get("m") is not await second.get("m")


async def test_models_go_with_their_instance() -> None:
    models = Models()
    told = models.told
    await models.get("m")
    del models
    gc.collect()

    assert told == ["del m"]


async def test_function_loads_once_for_each_replica_that_shares_it() -> None:
    loads: list[str] = []

    @serving.multiplexed
    async def load(name: str) -> list[str]:
        loads.append(name)
        return [name]

    with replica() as one:
        assert await load("m") is await load("m")
    with replica() as other:
        await load("m")
        await load("n")
    assert await load("m") == ["m"]
    assert loads == ["m", "m", "n", "m"]
    assert (one.ids, other.ids) == (["m"], ["m", "n"])


async def test_model_may_be_anything() -> None:
    @serving.multiplexed(max_num_models_per_replica=1)
    async def load(name: str) -> str | None:
        return None if name == "none" else name

    assert [await load(name) for name in ("none", "none", "a", "none")] == [None, None, "a", None]


async def test_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    models = Models()
    models.error = OSError("no such bucket")

    results = await asyncio.gather(*(models.get("m") for _ in range(3)), return_exceptions=True)
    assert results == [models.error] * 3
    models.error = None
    assert (await models.get("m")).id == "m"
    assert models.loads == {"m": 2}


async def test_load_that_cancels_itself_is_an_error_for_who_waits() -> None:
    @serving.multiplexed
    async def load(name: str) -> str:
        raise asyncio.CancelledError

    with pytest.raises(RequestCancelledError, match="load of model 'm' was cancelled"):
        await load("m")


async def test_load_is_a_request_of_its_own_for_its_model() -> None:
    seen: list[Any] = []

    @serving.multiplexed
    async def load(name: str) -> str:
        seen.append((current_request(), get_multiplexed_model_id()))
        return name

    with request() as scope:
        await load("m")
        await load("n")
    (first, first_id), (_, second_id) = seen
    assert (first_id, second_id) == ("m", "n")
    assert first is not scope
    assert (first.request_id, first.route, first.application) == ("r1", "/route", "app")


# Cancellation


async def test_one_who_leaves_does_not_take_the_load_from_the_others() -> None:
    models = Models()
    models.open.clear()
    leaving, staying = (asyncio.ensure_future(models.get("m")) for _ in range(2))
    await until(lambda: models.loads)
    leaving.cancel()
    await asyncio.wait((leaving,))

    models.open.set()
    assert (await staying).id == "m"
    assert models.loads == {"m": 1}
    assert models.told == []


async def test_load_is_cancelled_when_the_last_has_left_and_begins_anew_for_the_next() -> None:
    models = Models()
    models.open.clear()
    asking = [asyncio.ensure_future(models.get("m")) for _ in range(2)]
    await until(lambda: models.loads)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    again = asyncio.ensure_future(models.get("m"))
    await until(lambda: models.told == ["cancelled m"])

    models.open.set()
    assert (await again).id == "m"
    assert models.loads == {"m": 2}


async def test_cancelled_load_cancels_the_calls_that_it_made() -> None:
    cancelled: list[str] = []

    @serving.multiplexed
    async def load(name: str) -> None:
        scope = current_request()
        assert scope is not None
        scope.opened(lambda: cancelled.append(name))
        await asyncio.Event().wait()

    asking = asyncio.ensure_future(load("m"))
    await turn()
    asking.cancel()
    await asyncio.wait((asking,))
    assert cancelled == ["m"]
    await turn()


async def test_model_of_a_load_that_does_not_heed_its_cancellation_is_unloaded() -> None:
    told: list[str] = []
    stubborn = asyncio.Event()

    @serving.multiplexed(max_num_models_per_replica=1)
    async def load(name: str) -> Model:
        try:
            await stubborn.wait()
        except asyncio.CancelledError:
            await stubborn.wait()
        return ModelWithShutdown(name, told)

    asking = asyncio.ensure_future(load("m"))
    await turn()
    asking.cancel()
    await asyncio.wait((asking,))
    following = asyncio.ensure_future(load("n"))
    await turn()
    assert not following.done()

    stubborn.set()
    assert (await following).id == "n"
    assert told == ["shutdown m True", "del m"]


# Users


async def test_model_in_use_stays_until_its_request_has_ended() -> None:
    models = Models(ModelWithShutdown)
    with request():
        model = await models.get_one("a")
        waiting = asyncio.create_task(_outside(models.get_one("b")))
        await turn()
        assert models.told == []
        assert not waiting.done()
        del model
    assert (await waiting).id == "b"
    assert models.told == ["shutdown a True", "del a"]


async def _outside(work: Any) -> Any:
    enter_request(None)
    return await work


async def test_work_that_a_request_left_behind_keeps_no_model() -> None:
    models = Models()
    with request() as scope:
        pass
    enter_request(scope)
    await models.get_one("a")
    enter_request(None)

    assert (await models.get_one("b")).id == "b"


async def test_request_that_needs_more_models_than_there_are_places_is_told() -> None:
    models = Models()
    with request():
        await models.get_one("a")
        with pytest.raises(RuntimeError, match=r"Models.get_one: request r1 uses .*\['a'\].*is 1"):
            await models.get_one("b")
        assert (await models.get_one("a")).id == "a"
    assert (await models.get_one("b")).id == "b"


async def test_load_that_asks_for_the_place_that_it_fills_is_told() -> None:
    @serving.multiplexed(max_num_models_per_replica=1)
    async def load(name: str) -> list[Any]:
        return [await load("base") if name != "base" else name]

    with pytest.raises(RuntimeError, match="max_num_models_per_replica"):
        await load("m")
    assert await load("base") == ["base"]


# The ends of models


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Model, ["del a"]),
        (ModelWithShutdown, ["shutdown a True", "del a"]),
        (ModelWithAsyncShutdown, ["shutdown a", "del a"]),
    ],
)
async def test_hooks_run_before_the_place_is_given_to_another(
    kind: type[Model], expected: list[str]
) -> None:
    models = Models(kind)
    await models.get_one("a")

    await models.get_one("b")
    assert models.told == expected


async def test_model_that_is_held_by_a_cycle_only_is_let_go_of() -> None:
    models = Models()
    model: Any = await models.get_one("a")
    model.itself = model
    del model

    await models.get_one("b")
    assert models.told == ["del a"]


async def test_hook_that_fails_is_logged_and_the_place_is_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing:
        def shutdown(self) -> None:
            raise OSError("device lost")

    @serving.multiplexed(max_num_models_per_replica=1)
    async def load(name: str) -> Any:
        return Failing()

    await load("a")
    await load("b")
    assert "shutdown() of model 'a' failed" in caplog.text
    assert "device lost" in caplog.text


async def test_hook_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serving.multiplex.cache.UNLOAD_TIMEOUT_S", 0.01)

    class Endless:
        async def shutdown(self) -> None:
            await asyncio.Event().wait()

    @serving.multiplexed(max_num_models_per_replica=1)
    async def load(name: str) -> Any:
        return Endless()

    await load("a")
    await load("b")
    assert "shutdown() of model 'a' failed" in caplog.text


async def test_all_models_are_unloaded_at_the_end_of_the_replica() -> None:
    with replica() as held:
        models = Models(ModelWithAsyncShutdown)
        with request():
            await models.get("a")
            models.open.clear()
            loading, waiting = (asyncio.ensure_future(models.get(name)) for name in ("b", "c"))
            await until(lambda: models.loads["b"])
            await held.aclose(1.0)
            assert models.told == ["cancelled b", "shutdown a", "del a"]
            for asking in (loading, waiting, models.get("a")):
                with pytest.raises(RuntimeError, match="the replica has ended"):
                    await asking
        assert held.ids == []


async def test_end_of_the_replica_does_not_wait_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Endless:
        async def shutdown(self) -> None:
            await asyncio.Event().wait()

    @serving.multiplexed
    async def load(name: str) -> Any:
        return Endless()

    with replica() as held:
        await load("a")
        await held.aclose(0.01)
    assert "were not unloaded within 0.0 s" in caplog.text


# What callers hear


async def test_replica_tells_of_models_as_soon_as_they_are_loading_and_leaving() -> None:
    with replica() as held:
        told: list[list[str]] = []
        held.on_change = lambda: told.append(held.ids)
        models = Models()
        models.open.clear()
        asking = asyncio.ensure_future(models.get("a"))
        await turn()
        assert told == [["a"]]
        models.open.set()
        await asking
        for name in ("b", "c"):
            await models.get(name)
        models.error = OSError("gone")
        with pytest.raises(OSError, match="gone"):
            await models.get("d")
    assert told == [["a"], ["a", "b"], ["b"], ["b", "c"], ["c"], ["c", "d"], ["c"]]


async def test_replica_tells_of_a_load_that_is_given_up() -> None:
    with replica() as held:
        models = Models()
        models.open.clear()
        asking = asyncio.ensure_future(models.get("a"))
        await until(lambda: models.loads)
        told: list[list[str]] = []
        held.on_change = lambda: told.append(held.ids)
        asking.cancel()
        await asyncio.wait((asking,))
    assert told[0] == []


# The decorator


async def test_function_looks_as_it_did() -> None:
    assert inspect.iscoroutinefunction(Models.get)
    assert list(inspect.signature(Models().get).parameters) == ["model_id"]
    assert (await Models.get(Models(), "m")).id == "m"


async def test_bound_method_can_be_wrapped() -> None:
    class Loads:
        def __init__(self) -> None:
            self.get = serving.multiplexed(max_num_models_per_replica=1)(self._load)

        async def _load(self, name: str) -> str:
            return name.upper()

    assert await Loads().get("m") == "M"


async def test_pickled_by_value_it_begins_empty() -> None:
    with replica():
        await Models().get("m")
        copy = cloudpickle.loads(cloudpickle.dumps(Models))
    models = copy()
    await models.get("m")
    assert models.loads == {"m": 1}


@pytest.mark.parametrize("limit", [0, -2, True, 1.5, "3"])
def test_wrong_limit_is_refused(limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"max_num_models_per_replica .*{limit}"):
        serving.multiplexed(max_num_models_per_replica=limit)


def test_wrong_function_is_refused() -> None:
    def plain(model_id: str) -> str:
        return model_id

    async def many(model_id: str, more: int) -> str:
        return model_id

    wrap: Any = serving.multiplexed
    with pytest.raises(TypeError, match="make it `async def`"):
        wrap(plain)
    with pytest.raises(TypeError, match=r"many must take the id of the model and nothing else"):
        wrap(many)
    with pytest.raises(TypeError, match="async function"):
        wrap(5)


@pytest.mark.parametrize(
    ("model_id", "says"), [(7, "is a string, not 7"), ("", "header serve_multiplexed_model_id")]
)
async def test_wrong_model_id_is_refused(model_id: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        await Models().get(model_id)


def test_models_are_kept_from_one_loop_to_the_next_but_not_loaded_on_two() -> None:
    models = Models()
    asyncio.run(models.get("a"))

    async def use_two_loops() -> None:
        await models.get("b")
        with pytest.raises(RuntimeError, match="second event loop"):
            await asyncio.to_thread(asyncio.run, models.get("c"))

    asyncio.run(use_two_loops())
    asyncio.run(models.get("a"))
    assert models.loads == {"a": 1, "b": 1}


def test_loads_and_ends_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.replica")

    async def use_two() -> None:
        models = Models()
        await models.get_one("a")
        await models.get_one("b")

    asyncio.run(use_two())
    assert "Models.get_one loaded model 'a' in 0.0" in caplog.text
    assert "Models.get_one unloaded model 'a'" in caplog.text
