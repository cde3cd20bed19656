"""Requests on kept connections, again and again, and what came of them."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import Counter
from collections.abc import Iterator

import requests

import serving
from tests.support.control import DEADLINE_S


class Load(threading.Thread):
    """Asks on a kept connection, again and again, and counts the answers. Each request has an id of
    its own in the header `x-id`."""

    def __init__(self, path: str = "/", method: str = "GET") -> None:
        super().__init__()
        self._url = f"http://127.0.0.1:{serving.status().http_port}{path}"
        self._method = method
        self._body = b"x" * 1000 if method == "POST" else None
        self._ended = threading.Event()
        self.answers: Counter[str] = Counter()
        self.ids: list[str] = []

    def run(self) -> None:
        with requests.Session() as session:
            while not self._ended.is_set():
                self.ids.append(uuid.uuid4().hex)
                self.answers[self._ask(session, self.ids[-1])] += 1

    def _ask(self, session: requests.Session, request_id: str) -> str:
        try:
            answer = session.request(
                self._method,
                self._url,
                data=self._body,
                headers={"x-id": request_id},
                timeout=DEADLINE_S,
            )
        except requests.RequestException as error:
            return repr(error)
        return f"{answer.status_code} {answer.text}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        self.start()
        try:
            yield self
        finally:
            self._ended.set()
            self.join()


@contextlib.contextmanager
def loads(*each: Load) -> Iterator[None]:
    """Runs them all while the block does."""
    with contextlib.ExitStack() as stack:
        for load in each:
            stack.enter_context(load.running())
        yield
