"""Reading a server's messages by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving.proxy.receiver import Message, Receiver
from tests.support.mux import turn


class Server:
    """Gives messages as uvicorn does: those that are there at once, others when they come."""

    def __init__(
        self, *messages: str, pause: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._messages = list(messages)
        self._arrived = asyncio.Event()
        self._pause = pause
        self.calls = 0
        self.interrupted = 0

    def add(self, message: str) -> None:
        self._messages.append(message)
        self._arrived.set()

    async def receive(self) -> Message:
        self.calls += 1
        try:
            if self._pause is not None:
                await self._pause()
            while not self._messages:
                self._arrived.clear()
                await self._arrived.wait()
        except (GeneratorExit, asyncio.CancelledError):
            self.interrupted += 1
            raise
        return {"type": self._messages.pop(0)}


async def test_message_that_is_there_is_polled_without_waiting() -> None:
    receiver = Receiver(Server("first", "second").receive)
    assert receiver.poll() == {"type": "first"}
    assert receiver.poll() == {"type": "second"}
    receiver.close()


async def test_message_that_was_polled_in_vain_is_waited_for() -> None:
    server = Server()
    receiver = Receiver(server.receive)
    assert receiver.poll() is None
    getting = asyncio.ensure_future(receiver.get())
    await turn()
    assert not getting.done()
    server.add("late")
    assert await getting == {"type": "late"}
    assert server.calls == 1


async def test_get_gives_what_is_there_and_what_comes_in_order() -> None:
    server = Server("first")
    receiver = Receiver(server.receive)
    assert await receiver.get() == {"type": "first"}
    getting = asyncio.ensure_future(receiver.get())
    await turn()
    server.add("second")
    server.add("third")
    assert await getting == {"type": "second"}
    assert receiver.poll() == {"type": "third"}


@pytest.mark.parametrize("polled", [False, True])
async def test_receive_may_wait_more_than_once(polled: bool) -> None:
    async def pause() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    receiver = Receiver(Server("slow", pause=pause).receive)
    assert not polled or receiver.poll() is None
    assert await receiver.get() == {"type": "slow"}


@pytest.mark.parametrize("polled", [False, True])
async def test_close_ends_the_servers_wait(polled: bool) -> None:
    server = Server()
    receiver = Receiver(server.receive)
    if polled:
        receiver.poll()
    receiver.close()
    receiver.close()
    assert server.interrupted == polled
    assert not server._arrived._waiters


async def test_cancelled_get_leaves_nothing_behind() -> None:
    server = Server()
    receiver = Receiver(server.receive)
    getting = asyncio.ensure_future(receiver.get())
    await turn()
    getting.cancel()
    await asyncio.wait((getting,))
    receiver.close()
    assert server.interrupted == 1
    assert not server._arrived._waiters


async def test_get_after_a_cancelled_one_gives_the_next_message() -> None:
    server = Server()
    receiver = Receiver(server.receive)
    getting = asyncio.ensure_future(receiver.get())
    await turn()
    getting.cancel()
    await asyncio.wait((getting,))
    server.add("message")
    assert await receiver.get() == {"type": "message"}


@pytest.mark.parametrize("polled", [False, True])
async def test_error_of_the_server_is_raised(polled: bool) -> None:
    async def fail() -> None:
        if polled:
            await asyncio.sleep(0)
        raise OSError("gone")

    receiver = Receiver(Server(pause=fail).receive)
    assert not polled or receiver.poll() is None
    with pytest.raises(OSError, match="gone"):
        await receiver.get()
    receiver.close()
