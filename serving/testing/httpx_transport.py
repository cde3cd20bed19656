"""httpx transports that bring requests to an application in this process.

Responses are passed on chunk by chunk, and a client that closes a response early, is cancelled or
runs into its read timeout has left, as on a network.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextvars import Context
from typing import Any, TypeVar

import httpx

from serving.exceptions import ClusterError
from serving.testing.cluster import LocalCluster
from serving.testing.exchange import Exchange, Head, ResponseLost

T = TypeVar("T")

BASE_URL = "http://localhost"
CLIENT = ("127.0.0.1", 50_000)


def make_client(cluster: LocalCluster, options: dict[str, Any]) -> httpx.Client:
    """A client of a local cluster's proxy."""
    return httpx.Client(transport=Transport(cluster), **{"base_url": BASE_URL, **options})


def make_async_client(cluster: LocalCluster, options: dict[str, Any]) -> httpx.AsyncClient:
    """The same for async code."""
    return httpx.AsyncClient(transport=AsyncTransport(cluster), **{"base_url": BASE_URL, **options})


class Transport(httpx.BaseTransport):
    """For `httpx.Client`."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        client = _Client(self._cluster, request)
        try:
            if not client.is_sent:
                assert isinstance(request.stream, httpx.SyncByteStream)
                for data in request.stream:
                    client.wait(client.exchange.feed(data, more=True))
                client.wait(client.exchange.feed(b"", more=False))
            return client.response(client.wait(client.exchange.head()))
        except BaseException:
            client.leave()
            raise


class AsyncTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient`, on any asyncio event loop."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        client = _Client(self._cluster, request)
        try:
            if not client.is_sent:
                assert isinstance(request.stream, httpx.AsyncByteStream)
                async for data in request.stream:
                    await client.wait_async(client.exchange.feed(data, more=True))
                await client.wait_async(client.exchange.feed(b"", more=False))
            return client.response(await client.wait_async(client.exchange.head()))
        except BaseException:
            client.leave()
            raise


class _Client:
    """The client's side of one request, in its own thread or on its own loop."""

    def __init__(self, cluster: LocalCluster, request: httpx.Request) -> None:
        self.exchange = Exchange(cluster.proxy, _scope(request))
        self.is_sent = isinstance(request.stream, httpx.ByteStream)
        """The body is there as a whole, and goes with the head."""
        self._cluster = cluster
        self._request = request
        self._timeout_s: float | None = request.extensions.get("timeout", {}).get("read")
        if isinstance(request.stream, httpx.ByteStream):
            self.exchange.offer(b"".join(request.stream), more=False)
        try:
            # In a context of its own: a server would know nothing of the test's.
            cluster.loop.call_soon_threadsafe(self._start, context=Context())
        except RuntimeError:
            raise httpx.ConnectError("the application has ended", request=request) from None

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What a step on the cluster's loop gives, for plain code."""
        with self._errors():
            return self._cluster.do(work, self._timeout_s)

    async def wait_async(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, for async code."""
        with self._errors():
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(self._cluster.begin(work))

    def response(self, head: Head) -> httpx.Response:
        """The response, whose body is still to come."""
        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=_Body(self),
            request=self._request,
            extensions={"http_version": b"HTTP/1.1"},
        )

    def leave(self) -> None:
        """Wants no more. Harmless at the end."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the request with it
            self._cluster.loop.call_soon_threadsafe(self.exchange.leave)

    def _start(self) -> None:
        self._cluster.tasks.start(self.exchange.run(), name=repr(self.exchange))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises httpx's errors in the place of ours."""
        try:
            yield
        except TimeoutError:
            raise httpx.ReadTimeout("timed out", request=self._request) from None
        except ResponseLost as error:
            raise httpx.RemoteProtocolError(str(error), request=self._request) from error
        except (ClusterError, concurrent.futures.CancelledError):
            raise httpx.ReadError("the application has ended", request=self._request) from None


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of a response, chunk by chunk as it was sent."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._client.wait(self._client.exchange.chunk())) is not None:
            yield chunk

    def close(self) -> None:
        self._client.leave()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._client.exchange
        while (chunk := await self._client.wait_async(exchange.chunk())) is not None:
            yield chunk

    async def aclose(self) -> None:
        self._client.leave()


def _scope(request: httpx.Request) -> dict[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": CLIENT,
        "server": (url.host, url.port or (443 if url.scheme == "https" else 80)),
    }
