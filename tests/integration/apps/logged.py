"""Three deployments that log, each in its own way, what they work on."""

from __future__ import annotations

import logging
import logging.handlers
import queue
from typing import Any

from starlette.requests import Request

import serving

logger = logging.getLogger("serving.app")
own = logging.getLogger("own")
AT_ONCE = 200


@serving.deployment(max_ongoing_requests=AT_ONCE)
class Leaf:
    """Its own handler writes later, on another thread."""

    def __init__(self, own_log: str) -> None:
        file = logging.FileHandler(own_log)
        file.setFormatter(logging.Formatter("%(serving_request_id)s %(message)s"))
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        own.addHandler(logging.handlers.QueueHandler(waiting))
        own.setLevel(logging.INFO)
        own.propagate = False
        self._listener = logging.handlers.QueueListener(waiting, file)
        self._listener.start()

    async def __call__(self, name: str) -> str:
        own.info("own %s", name)
        return await self.together(name)

    @serving.batch(max_batch_size=AT_ONCE, batch_wait_timeout_s=30)
    async def together(self, names: list[str]) -> list[str]:
        logger.info("together")
        return names

    def shutdown(self) -> None:
        self._listener.stop()


@serving.deployment(max_ongoing_requests=AT_ONCE)
class Middle:
    def __init__(self, leaf: Any) -> None:
        self._leaf = leaf

    def __call__(self, name: str) -> Any:
        logger.info("before %s", name)
        answer = self._leaf.remote(name).result()
        logger.info("after %s", name)
        return answer


@serving.deployment(max_ongoing_requests=AT_ONCE)
class Front:
    def __init__(self, middle: Any) -> None:
        self._middle = middle

    async def __call__(self, request: Request) -> Any:
        name = request.query_params["name"]
        if name == "warns":
            logging.getLogger("of.no.handler").warning("warned")
            return name
        answer = await self._middle.remote(name)
        logger.info("front %s", name)
        return answer
