"""What users call: run, start, status, delete, shutdown."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, NoReturn, TypeVar

from serving import cluster, progress
from serving.calls import local, process
from serving.cluster import ClusterSettings, OwnCluster
from serving.config import (
    AdminOptions,
    HTTPOptions,
    LoggingConfig,
    NodeOptions,
    ProxyLocation,
    gRPCOptions,
    validated,
)
from serving.context import current_replica
from serving.exceptions import ClusterError
from serving.handle import DeploymentHandle
from serving.interrupts import interruptible, raise_if_interrupted
from serving.schema import ServeStatus, from_message
from serving.specs import application_graph, application_spec, reachable_prefix

if TYPE_CHECKING:
    from serving.client import Client
    from serving.configfile.deploying import Deployed
    from serving.configfile.schema import ServeDeploySchema
    from serving.deployment import Application
    from serving.testing.cluster import LocalCluster
    from serving.v1 import controller_pb2 as pb

T = TypeVar("T")

# Of a shell's command that Ctrl-C ended.
_INTERRUPTED_CODE = 130

# The cluster that this process started, if it did. The lock is held while one starts.
_own: OwnCluster | None = None
_lock = threading.Lock()
# The generations of the applications that this process deployed.
_deployed: dict[str, int] = {}
# The module that `serving run` is importing.
_importing = ""


process.find_cluster_with(lambda: _address())


def run(
    target: Application[T],
    *,
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | None = "/",
    auto_rollback: bool = False,
    _local_testing_mode: bool = False,
) -> DeploymentHandle[T]:
    """Serves an application and returns once it answers.

    It runs on the cluster that SERVING_ADDRESS or the state folder names, or else on one that
    starts now and ends with this process. An application of the same name is updated: the old
    version serves until the new one is ready, and running the same again changes nothing.

    Arguments:
        target: what `.bind()` returned.
        blocking: wait until Ctrl-C or SIGTERM, then end the application.
        name: the application's name.
        route_prefix: the HTTP path that it serves; None: no HTTP. What has neither a `__call__` nor
            an HTTP application serves none where the cluster answers gRPC.
        auto_rollback: have an update that fails rolled back at once, as `rollback` does: the status
            is then that of the version before, and tells what was rolled back and why. Without it
            the status stays UPDATE_FAILED. Either way the version before serves on.
        _local_testing_mode: run it in this process, without a cluster, for tests. Until
            `shutdown()`, `status`, `delete` and handles are about what runs here.
            `serving.testing.run` does more.

    Raises:
        TypeError, ValueError: a wrong argument; nothing was started.
        DeploymentFailedError: the user's code could not start; holds its traceback.
        ApplicationConflictError: another application has the route prefix.
        ClusterError: the cluster could not be started or reached.
    """
    _refuse_while_imported("run")
    if _local_testing_mode:
        return _run_locally(target, name, route_prefix, blocking=blocking)
    if local.current_key():
        raise ClusterError(
            "applications run in this process in local testing mode: run this one likewise, or "
            "end them with serving.shutdown() first"
        )
    route_prefix = reachable_prefix(target, route_prefix, _answers_grpc)
    spec = application_spec(target, name, route_prefix, auto_rollback=auto_rollback)
    if blocking:
        with until_interrupted(name):
            deploy(spec)
            wait_for_end()
    else:
        deploy(spec)
    return DeploymentHandle(spec.ingress, name)


def start(
    http_options: HTTPOptions | dict[str, Any] | None = None,
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    admin_options: AdminOptions | dict[str, Any] | None = None,
    node_options: NodeOptions | dict[str, Any] | None = None,
    *,
    grpc_options: gRPCOptions | dict[str, Any] | None = None,
    proxy_location: ProxyLocation | str | None = None,
    **unknown: Never,
) -> ServeStatus:
    """Starts a cluster that ends with this process, with options of one's own.

    `proxy_location` is that of the HTTP options, and wins over it.

    It answers gRPC where `grpc_options` have `grpc_servicer_functions`. These are imported here,
    before anything starts, and again by replicas; ValueError tells of one that cannot be.

    It has no REST API, unless `admin_options` are given ({} for the defaults). `node_options` say
    what the machine has; what they leave out is found out.

    Does nothing where one runs already: its options stay as they are, with a warning where some
    were given. Returns its status, which tells the `url`. Raises ClusterError where it cannot
    start.
    """
    _refuse_while_imported("start")
    if unknown:
        raise TypeError(_unknown_of_start(next(iter(unknown))))
    http = _options(HTTPOptions, http_options, "http_options")
    if proxy_location is not None:
        located = {**http.model_dump(), "location": proxy_location}
        http = validated(HTTPOptions, located, "serving.start")
    logging = _options(LoggingConfig, logging_config, "logging_config")
    admin = None
    if admin_options is not None:
        admin = _options(AdminOptions, admin_options, "admin_options")
    node = _options(NodeOptions, node_options, "node_options")
    grpc = _options(gRPCOptions, grpc_options, "grpc_options")
    given = (
        http_options
        or grpc_options
        or logging_config
        or proxy_location
        or node_options
        or admin_options is not None
    )
    if not _connect(ClusterSettings(http, logging, admin, node, grpc)) and given:
        warnings.warn(
            "a cluster runs already: http_options, grpc_options, logging_config, admin_options and "
            "node_options are ignored",
            RuntimeWarning,
            stacklevel=2,
        )
    if _own is not None:
        _own.wait_until_ready()
    return status()


def _unknown_of_start(name: str) -> str:
    hint = ""
    if name == "detached":
        hint = ": the command `serving start` starts a cluster that stays"
    return f"serving.start() has no option {name!r}{hint} (docs/migrating-from-ray-serve.md)"


def status() -> ServeStatus:
    """The applications and proxies of the cluster; empty where none runs. Within a replica, the
    cluster is its own."""
    if (here := _local_cluster()) is not None:
        return here.status()
    if _address() is None:
        return ServeStatus()
    with _client() as client:
        return from_message(client.status())


def stacks(application: str = "", replica: str = "") -> list[pb.ReplicaStacks]:
    """What replicas are doing now: all of them, an application's, or the one whose id ends so.

    Raises ValueError where there is none.
    """
    with _client() as client:
        found = client.stacks(application, replica)
        if found:
            return found
        known = [
            each.replica_id
            for app in client.status().applications
            if application in ("", app.name)
            for deployment in app.deployments
            for each in deployment.replicas
        ]
    asked = f"replica {replica!r}" if replica else "replica"
    where = f" of application {application!r}" if application else ""
    raise ValueError(f"no {asked}{where}; there are: {', '.join(known) or 'none'}")


def statuses() -> Iterator[ServeStatus]:
    """The status of the cluster now, and again whenever it changes, until it ends."""
    with _client() as client:
        for message in client.statuses():
            yield from_message(message)


def get_app_handle(name: str = "default") -> DeploymentHandle[Any]:
    """A handle of the deployment that takes an application's requests.

    Raises ValueError where there is no application of that name.
    """
    if (here := _local_cluster()) is not None:
        ingresses = {app.name: app.ingress for app in here.applications()}
    else:
        with _client() as client:
            ingresses = {app.name: app.ingress for app in client.status().applications}
    if name not in ingresses:
        raise _no_application(name, ingresses)
    return DeploymentHandle(ingresses[name], name)


def get_deployment_handle(
    deployment_name: str, app_name: str | None = None
) -> DeploymentHandle[Any]:
    """A handle of a deployment by its name; within a replica, of its own application by default."""
    if app_name is None:
        replica = current_replica()
        app_name = replica.app_name if replica is not None else "default"
    return DeploymentHandle(deployment_name, app_name)


def delete(name: str) -> None:
    """Stops an application, letting its requests finish, and returns when it is gone.

    Not within a replica. Raises ValueError where there is none of that name.
    """
    _refuse_in_replica("delete")
    if (here := _local_cluster()) is not None:
        if not here.delete(name):
            raise _no_application(name, (app.name for app in here.applications()))
        if not here.applications():
            here.close()
        return
    with _client() as client:
        if not client.delete(name, progress.say):
            raise _no_application(name, (app.name for app in client.status().applications))


def rollback(name: str = "default") -> None:
    """Has an application be again what it was before its newest version, and returns once it is.

    That is the last version before it that worked and was not the same; it serves again as it was
    deployed, code and options. The status tells what was rolled back.

    Raises ValueError, which names the versions that there are, where there is none to return to, or
    no such application; DeploymentFailedError where that version cannot start any more.
    """
    if _local_cluster() is not None:
        raise ClusterError("in local testing mode no version is kept that one could return to")
    with _client() as client:
        found = {app.name: app.generation for app in client.status().applications}
        if name not in found:
            raise _no_application(name, found)
        generation = client.roll_back(name, found[name])
        progress.follow(client.progress(name, generation), alone=_own is None)
    progress.say(f"Application {name!r} is rolled back")


def shutdown() -> None:
    """Ends the cluster and deletes its applications, letting requests finish. Does nothing where
    none runs. Not within a replica."""
    _refuse_in_replica("shutdown")
    if (here := _local_cluster()) is not None:
        here.close()
        return
    process.close()
    if _own is not None:
        _stop_own()
    elif (address := _address()) is not None:
        with _client() as client:
            client.shutdown()
        cluster.wait_until_gone(address)


def _no_application(name: str, known: Iterable[str]) -> ValueError:
    return ValueError(f"no application {name!r}; there are: {', '.join(known) or 'none'}")


# Local testing


def _run_locally(
    target: Application, name: str, route_prefix: str | None, *, blocking: bool
) -> DeploymentHandle[Any]:
    if blocking:
        raise ValueError("blocking=True: nobody could reach what runs in local testing mode")
    from serving.testing.cluster import LocalCluster

    graph = application_graph(target, name, route_prefix)
    here = _local_cluster()
    if here is None:
        here = LocalCluster(HTTPOptions())
        local.use_in_script(here.key)
    try:
        here.deploy(graph, name, route_prefix)
    except BaseException:
        if not here.applications():
            here.close()
        raise
    return DeploymentHandle(graph.nodes[0].deployment.name, name)


def _local_cluster() -> LocalCluster | None:
    """The one that this code runs in, or that the script has made its own."""
    key = local.current_key()
    if not key:
        return None
    from serving.testing.cluster import find

    return find(key)


# The cluster


def _address() -> str | None:
    """Of the controller: of our own cluster, or of the one to be found."""
    if _own is not None and not _own.is_running:
        _stop_own()  # it ended by itself
    return _own.address if _own is not None else cluster.find()


def _answers_grpc() -> bool:
    return _address() is not None and status().grpc_port != 0


def _connect(settings: ClusterSettings | None = None) -> bool:
    """Makes sure that there is a cluster; returns whether it was started now."""
    global _own
    with _lock:
        if _address() is not None:
            return False
        own = OwnCluster(settings or ClusterSettings(HTTPOptions(), LoggingConfig()))
        own.wait_for_controller()
        _own = own
    atexit.register(_stop_even_if_interrupted)
    return True


def _stop_own() -> None:
    global _own
    process.close()
    own, _own = _own, None
    _deployed.clear()
    atexit.unregister(_stop_even_if_interrupted)
    if own is not None:
        own.stop()


def _stop_even_if_interrupted() -> None:
    with suppress(KeyboardInterrupt):  # it ended at once
        _stop_own()


def _forget_own() -> None:
    """In a forked child: the cluster belongs to the parent."""
    global _own
    own, _own = _own, None
    atexit.unregister(_stop_even_if_interrupted)
    if own is not None:
        own.forget()


os.register_at_fork(after_in_child=_forget_own)


@contextmanager
def _client() -> Iterator[Client]:
    # gRPC is not needed for the checks before.
    from serving.client import Client

    address = _address()
    if address is None:
        raise ClusterError(cluster.NO_CLUSTER)
    with Client(address) as client:
        yield client


def deploy(spec: pb.ApplicationSpec) -> None:
    """Deploys what `application_spec` made; ends the cluster if that fails and it was started."""
    started = _connect()
    try:
        with _client() as client:
            _deploy(client, spec)
    except BaseException:
        if started:
            _stop_even_if_interrupted()
        raise


def _deploy(client: Client, spec: pb.ApplicationSpec) -> None:
    before = client.generation(spec.name)
    generation = client.deploy(spec)[spec.name]
    is_of_others = before is not None and before != _deployed.get(spec.name)
    if generation != before:
        _deployed[spec.name] = generation
        if is_of_others:
            progress.say(f"Replacing application {spec.name!r}, which was not deployed from here")
    elif is_of_others:
        progress.say(f"Application {spec.name!r} runs already, unchanged: it stays as it is")
    try:
        progress.follow(client.progress(spec.name, generation), alone=_own is None)
    except ClusterError:
        if _own is not None:
            _own.wait_until_ready()  # it knows why it ended
        raise
    where = from_message(client.status()).where(spec.route_prefix)
    progress.say(f"Application {spec.name!r} is ready{where}")


def deploy_config(
    config: ServeDeploySchema,
    *,
    app_dir: Path,
    base: Path,
    wait: bool = True,
    timeout_s: float = 600.0,
    salt: str = "",
) -> Deployed:
    """Makes the applications of a config those of the cluster, see `serving.configfile.deploying`.

    Waits until they run, unless told otherwise; what is not as wanted by then is a failure, too.
    """
    from serving.configfile import deploying

    began = time.monotonic()
    with _client() as client:
        outcome = deploying.deploy_config(
            config,
            client,
            app_dir=app_dir,
            base=base,
            timeout_s=timeout_s,
            salt=salt,
            answers_grpc=client.status().grpc_port != 0,
        )
        if wait:
            with progress.shown(alone=_own is None) as show:
                outcome.failures |= client.settle(
                    outcome.generations,
                    outcome.deleted,
                    timeout_s=timeout_s,
                    began=began,
                    show=show,
                )
    return outcome


def cluster_status() -> pb.ServeStatus:
    """The status as the controller tells it."""
    with _client() as client:
        return client.status()


@contextmanager
def until_interrupted(name: str) -> Iterator[None]:
    """Lets Ctrl-C or SIGTERM end what the context does, and the application with it: the whole
    cluster if it is ours."""
    with interruptible():
        try:
            yield
        except KeyboardInterrupt:
            try:
                _end(name)
            except KeyboardInterrupt:
                raise SystemExit(_INTERRUPTED_CODE) from None


def _end(name: str) -> None:
    if _own is not None:
        _stop_own()
    elif _address() is not None:
        with _client() as client:
            _delete_own(client, name)


def _delete_own(client: Client, name: str) -> None:
    """Deletes an application unless someone else deployed it, or has replaced it meanwhile."""
    mine = _deployed.pop(name, None)
    current = client.generation(name)
    if current is not None and current == mine:
        client.delete(name, progress.say)
    elif current is not None:
        progress.say(f"Application {name!r} is not the one deployed from here: it goes on")


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Refuses calls of `run` and `start` meanwhile: whoever imports it wants to do that."""
    global _importing
    _importing = module
    try:
        yield
    finally:
        _importing = ""


class CalledWhileImportedError(ClusterError):
    """A module calls `run` or `start` when `serving run` or a replica imports it."""


def _refuse_while_imported(call: str) -> None:
    if _importing:
        what = f"module {_importing!r} calls serving.{call}() when it is imported"
    elif _is_replica():
        what = f"serving.{call}() was called in a replica, maybe by a module that it imports"
    else:
        return
    raise CalledWhileImportedError(
        f"{what}: make the application there with .bind(), and keep serving.{call}() under "
        'if __name__ == "__main__":'
    )


def _refuse_in_replica(call: str) -> None:
    if _is_replica():
        raise ClusterError(
            f"serving.{call}() was called in a replica, for whose end it might wait: call it in a "
            f"script, or use `serving {call}`"
        )


def _is_replica() -> bool:
    module = sys.modules["__main__"].__spec__
    return module is not None and module.name.startswith("serving.replica")


def wait_for_end() -> NoReturn:
    """Waits for the cluster to end by itself, and then raises ClusterError."""
    raise_if_interrupted()
    if _own is not None:
        _own.wait_for_end()
    else:
        with _client() as client:
            client.wait_for_end()
    raise ClusterError("the cluster ended by itself")


def is_running() -> bool:
    """Whether there is a cluster."""
    return _address() is not None


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[None]:
    """Makes sure that there is a cluster, and ends it if it was started."""
    with interruptible():
        started = _connect(settings)
        try:
            yield
        finally:
            if started:
                _stop_own()


def _options(model: type[Any], given: Any, name: str) -> Any:
    if given is None:
        return model()
    return given if isinstance(given, model) else validated(model, dict(given), name)
