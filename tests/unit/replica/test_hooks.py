"""The methods of life of a user's object."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import time
from typing import Any

import pytest

from serving.replica.hooks import Hooks

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


async def test_object_without_methods_of_life_is_well_and_ends() -> None:
    for instance in (object(), test_object_without_methods_of_life_is_well_and_ends):
        hooks = Hooks(instance)
        assert await hooks.check_health(1) == ""
        await hooks.end(1)


async def test_user_config_for_an_object_that_takes_none_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"no method reconfigure\(user_config\)"):
        await Hooks(object()).reconfigure({})


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
async def test_hook_sees_the_variables_of_the_constructor(is_async: bool) -> None:
    seen: list[tuple[str, bool]] = []

    def note(config: Any) -> None:
        seen.append((variable.get(), threading.current_thread() is threading.main_thread()))

    async def note_on_loop(config: Any) -> None:
        note(config)

    class Object:
        reconfigure = staticmethod(note_on_loop if is_async else note)

    variable.set("constructed")
    hooks = Hooks(Object())
    variable.set("later")
    await hooks.reconfigure({})

    assert seen == [("constructed", is_async)]


@pytest.mark.parametrize(
    ("error", "complaint"),
    [(ValueError("broken"), "ValueError: broken"), (SystemExit(1), "called sys.exit()")],
)
async def test_check_that_raises_is_a_complaint_with_the_users_frames(
    error: BaseException, complaint: str
) -> None:
    class Object:
        def check_health(self) -> None:
            raise error

    text = await Hooks(Object()).check_health(1)

    assert complaint in text
    assert "in check_health" in text
    if isinstance(error, ValueError):
        assert text.count("  File ") == 1


async def test_check_that_hangs_is_not_asked_again_and_well_once_it_returns() -> None:
    gate, asked = asyncio.Event(), 0

    class Object:
        async def check_health(self) -> None:
            nonlocal asked
            asked += 1
            await gate.wait()

    hooks = Hooks(Object())
    for _ in range(2):
        assert await hooks.check_health(0.01) == "check_health() has not returned within 0.01 s"
    gate.set()
    assert await hooks.check_health(1) == ""
    assert asked == 1


async def test_blocked_loop_takes_no_time_of_the_check() -> None:
    class Object:
        async def check_health(self) -> None:
            for _ in range(3):
                await asyncio.sleep(0)

    hooks = Hooks(Object())
    asking = asyncio.ensure_future(hooks.check_health(0.05))
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251 - blocks the loop, as careless code does
    assert await asking == ""


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
async def test_del_is_called_once_and_other_objects_keep_theirs(is_async: bool) -> None:
    ended: list[str] = []

    class Object:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            ended.append(self.name)

    class AsyncObject(Object):
        async def __del__(self) -> None:  # type: ignore[override]
            ended.append(self.name)

    instance, other = (AsyncObject if is_async else Object)("ours"), Object("other")
    hooks = Hooks(instance)
    await hooks.end(1)
    assert ended == ["ours"]

    del instance, hooks
    gc.collect()
    assert ended == ["ours"]
    del other
    assert ended == ["ours", "other"]


async def test_end_goes_on_after_a_shutdown_that_fails_or_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    class Fails:
        def shutdown(self) -> None:
            sys.exit("told to nobody")

        def __del__(self) -> None:
            ended.append("fails")

    class Hangs:
        async def shutdown(self) -> None:
            await asyncio.Event().wait()

        def __del__(self) -> None:
            ended.append("hangs")

    await Hooks(Fails()).end(1)
    await Hooks(Hangs()).end(0.01)

    assert ended == ["fails", "hangs"]
    assert "shutdown() of the deployment failed" in caplog.text
    assert "shutdown() of the deployment did not end within 0.0 s" in caplog.text
