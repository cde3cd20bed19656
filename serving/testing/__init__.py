"""Applications within this process, for tests: no ports, no other processes, started at once.

from serving.testing import run

def test_greeting():
    with run(Greeter.bind("Hello")) as app:
        assert app.handle.greet.remote("Ada").result() == "Hello, Ada!"
        assert app.client().get("/?name=Ada").json() == {"message": "Hello, Ada!"}

What runs is the code of the real proxy, replicas and handles, joined in memory: batching,
streaming, cancellation, limits, retries and errors are theirs. The class is the very class that was
decorated, and the arguments are the very objects that were bound.

__init__.py          what users call
application.py       an application: its deployments, and their replicas
arguments.py         handles in the place of bound deployments
cluster.py           the event loop on a thread, and what runs on it
exchange.py          one HTTP request and its response
httpx_transport.py   httpx on top of that
replica.py           a replica, and connections to it
"""

from __future__ import annotations

import asyncio
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from serving.config import HTTPOptions
from serving.exceptions import ServingError
from serving.handle import DeploymentHandle, T_co
from serving.specs import application_graph
from serving.testing.cluster import LocalCluster

if TYPE_CHECKING:
    import httpx

    from serving.deployment import Application

__all__ = ["LocalApplication", "run"]


def run(
    target: Application[T_co],
    *,
    name: str = "default",
    route_prefix: str | None = "/",
    request_timeout_s: float | None = None,
) -> LocalApplication[T_co]:
    """Runs an application in this process, by itself, and returns once it answers.

    End it with `with`, `async with` or `close()`.

    Arguments:
        target: what `.bind()` returned.
        name: the application's name. Several of one name may run at a time, each by itself.
        route_prefix: the HTTP path that it serves; None: no HTTP.
        request_timeout_s: as in `HTTPOptions`.

    Raises:
        TypeError, ValueError: a wrong argument.
        DeploymentFailedError: the user's code could not start; holds its traceback.
    """
    options = HTTPOptions(request_timeout_s=request_timeout_s)
    graph = application_graph(target, name, route_prefix)
    cluster = LocalCluster(options)
    try:
        cluster.deploy(graph, name, route_prefix)
    except BaseException:
        cluster.close(grace_s=0)
        raise
    return LocalApplication(cluster, name)


class LocalApplication(Generic[T_co]):
    """An application that runs in this process, until it is closed."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        application = cluster.application(name)
        assert application is not None
        self.name = name
        self.handle: DeploymentHandle[T_co] = cluster.handle(application.ingress, name)
        """Calls the ingress deployment."""
        self._cluster = cluster
        self._application = application

    def __repr__(self) -> str:
        return (
            f"<LocalApplication {self.name} {'closed' if self._cluster.is_closed else 'running'}>"
        )

    def deployment_handle(self, deployment_name: str) -> DeploymentHandle[Any]:
        """A handle of one of its deployments."""
        self._replicas(deployment_name)
        return self._cluster.handle(deployment_name, self.name)

    def instances(self, deployment_name: str) -> list[Any]:
        """The objects that run as replicas of a deployment: of the decorated class, to look at."""
        return [replica.instance for replica in self._replicas(deployment_name)]

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client of the application. `options` are those of `httpx.Client`."""
        client: httpx.Client = _httpx_transport().make_client(self._cluster, options)
        return client

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        """The same for async code. `options` are those of `httpx.AsyncClient`."""
        client: httpx.AsyncClient = _httpx_transport().make_async_client(self._cluster, options)
        return client

    def close(self) -> None:
        """Ends the application as `serving.delete` does: open requests may finish, then the
        application's lifespan ends and `shutdown` methods run. Harmless the second time."""
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A test that has failed is not to wait for what it left open.
        self._cluster.close(grace_s=None if error is None else 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # In a thread: requests that are to finish may need this event loop.
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _replicas(self, deployment_name: str) -> Any:
        replicas = self._application.replicas
        if deployment_name not in replicas:
            known = ", ".join(replicas)
            raise ValueError(
                f"application {self.name!r} has no deployment {deployment_name!r}; it has: {known}"
            )
        return replicas[deployment_name]


def _httpx_transport() -> ModuleType:
    try:
        from serving.testing import httpx_transport
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise ServingError(
            "HTTP clients of serving.testing need httpx: pip install 'serving[testing]'"
        ) from None
    return httpx_transport
