"""From a bound application to the messages that describe it to the controller."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

from serving import packages
from serving.code import capture, dumps, fingerprint, name_of, refuse, sources, unportable
from serving.code.sources import Module
from serving.deployment import Application, Deployment
from serving.exceptions import CodeNotPortableError
from serving.handle import DeploymentHandle
from serving.names import check_application_name, check_route_prefix
from serving.v1 import controller_pb2 as pb


class UnknownDeploymentError(ValueError):
    """Options are given for a deployment that the application does not have."""

    def __init__(self, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"the application has no deployment {name!r}{hint} (it has: {', '.join(known)})"
        )
        self.name = name


class Overrides:
    """What is to be changed in the deployments of an application, from outside of its code."""

    def __init__(
        self,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        """Options by the deployments' names; and a runtime_env, which those of deployments
        win over."""
        self._options = options or {}
        self._runtime_env = runtime_env or {}

    def check(self, names: list[str]) -> None:
        """Raises UnknownDeploymentError where options are for none of these deployments."""
        for name in self._options:
            if name not in names:
                raise UnknownDeploymentError(name, names)

    def applied(self, deployment: Deployment[..., Any], name: str) -> Deployment[..., Any]:
        """The deployment, which has this name in its application, with what is to be changed."""
        options: dict[str, Any] = dict(self._options.get(name, {}))
        if self._runtime_env:
            resources = options.get("ray_actor_options")
            if resources is None and (given := deployment.config.ray_actor_options) is not None:
                resources = given.model_dump(exclude_unset=True)
            resources = dict(resources or {})
            own = resources.get("runtime_env") or {}
            resources["runtime_env"] = _merged(self._runtime_env, own)
            options["ray_actor_options"] = resources
        return _without_rivals(deployment, options).options(**options) if options else deployment


def _merged(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """A runtime_env within another: its keys win, and so does each of its variables."""
    merged = {**outer, **inner}
    variables = {**(outer.get("env_vars") or {}), **(inner.get("env_vars") or {})}
    return {**merged, "env_vars": variables} if variables else merged


def _without_rivals(
    deployment: Deployment[..., Any], options: dict[str, Any]
) -> Deployment[..., Any]:
    """A number of replicas takes the place of autoscaling, and the other way round."""
    rivals = {"num_replicas", "autoscaling_config"}
    if not rivals & options.keys():
        return deployment
    kept = tuple((option, value) for option, value in deployment.given if option not in rivals)
    return replace(deployment, given=kept)


def application_spec(
    target: object,
    name: str,
    route_prefix: str | None,
    *,
    salt: str = "",
    auto_rollback: bool = False,
    overrides: Overrides | None = None,
) -> pb.ApplicationSpec:
    """Checks the application as a whole and captures its code.

    With another `salt` it is another version, even where its code seems the same.

    Raises TypeError or ValueError, naming what is wrong, and CodeNotPortableError.
    """
    graph = application_graph(target, name, route_prefix)
    overrides = overrides or Overrides()
    deployments = _deployment_specs(graph, name, overrides)
    overrides.check([deployment.name for deployment in deployments])
    archive = _add_versions(deployments, salt)
    return pb.ApplicationSpec(
        name=name,
        route_prefix=route_prefix or "",
        ingress=graph.nodes[0].deployment.name,
        deployments=deployments,
        auto_rollback=auto_rollback,
        sources_archive=archive,
    )


def application_graph(target: object, name: str, route_prefix: str | None) -> Graph:
    """Checks the application as far as that can be done without looking into arguments.

    Raises TypeError or ValueError, naming what is wrong.
    """
    application = _checked_target(target)
    check_application_name(name)
    if route_prefix is not None:
        check_route_prefix(route_prefix)
        _check_takes_requests(application.deployment)
    return Graph(application)


class Graph:
    """A bound deployment and all that are found bound into it, each with a name of its own."""

    def __init__(self, root: Application) -> None:
        # By identity: the same bound node is one deployment, wherever it stands.
        self._names: dict[int, str] = {}
        self.nodes: list[Application] = []
        """The root first; more come as they are named."""
        self.name(root)

    def name(self, node: Application) -> str:
        """The name of a node in this graph, to which it may be new."""
        if (known := self._names.get(id(node))) is not None:
            return known
        taken = set(self._names.values())
        wanted = node.deployment.name
        names = (f"{wanted}_{number}" for number in count(1))
        name = wanted if wanted not in taken else next(n for n in names if n not in taken)
        self._names[id(node)] = name
        self.nodes.append(node)
        return name


def _deployment_specs(
    graph: Graph, application: str, overrides: Overrides
) -> list[pb.DeploymentSpec]:
    """Of all, the root's first. Pickling a node's arguments finds the nodes bound into it."""
    specs: list[pb.DeploymentSpec] = []
    files = _Packages()
    for node in graph.nodes:  # grows meanwhile
        calls: dict[str, None] = {}

        def handle(obj: object, calls: dict[str, None] = calls) -> object | None:
            if not isinstance(obj, Application):
                return None
            name = graph.name(obj)
            calls[name] = None
            return DeploymentHandle[Any](name, application)

        _check_arguments(node)
        init_args = dumps((node.args, node.kwargs), replace=handle)
        name = graph.name(node)
        deployment = overrides.applied(node.deployment, name)
        spec = _deployment_spec(deployment, name, init_args, list(calls))
        files.add_to(spec, deployment)
        specs.append(spec)
    return specs


def _check_arguments(node: Application) -> None:
    named = {f"argument {number}": value for number, value in enumerate(node.args, 1)}
    named |= {f"argument {name!r}": value for name, value in node.kwargs.items()}
    for name, value in named.items():
        if (culprit := unportable.in_bind(value)) is not None:
            raise CodeNotPortableError(
                f"deployment {node.deployment.name!r}, {name} of bind: {refuse(value, culprit)}"
            )


def _checked_target(target: object) -> Application:
    if isinstance(target, Application):
        return target
    if isinstance(target, Deployment):
        raise TypeError(
            f"deployment {target.name!r} is not bound: did you forget .bind()? "
            f"Pass {target.name}.bind(...)"
        )
    raise TypeError(
        "expected an application, the result of .bind() on a @serving.deployment, "
        f"not {type(target).__name__!r}"
    )


def reachable_prefix(
    target: object, route_prefix: str | None, answers_grpc: Callable[[], bool]
) -> str | None:
    """The route prefix; None where the application takes no HTTP requests, and has no need to,
    since its cluster answers gRPC: what has RPCs alone is run like everything else."""
    if route_prefix is None or not isinstance(target, Application):
        return route_prefix
    return route_prefix if _takes_http(target.deployment) or not answers_grpc() else None


def _takes_http(deployment: Deployment[..., Any]) -> bool:
    target = deployment.func_or_class
    if not inspect.isclass(target) or hasattr(target, "__serving_ingress__"):
        return True
    # Not hasattr: every class has a `__call__`, its metaclass's.
    return any("__call__" in base.__dict__ for base in target.__mro__)


def _check_takes_requests(deployment: Deployment[..., Any]) -> None:
    if not _takes_http(deployment):
        raise TypeError(
            f"deployment {deployment.name!r} cannot take HTTP requests: give the class "
            f"{deployment.func_or_class.__qualname__} a __call__ method or put "
            "@serving.ingress(app) on it, or run it with route_prefix=None; on a cluster that "
            "answers gRPC its methods are enough"
        )


def _deployment_spec(
    deployment: Deployment[..., Any], name: str, init_args: bytes, calls: list[str]
) -> pb.DeploymentSpec:
    adapter = deployment.config.http_adapter
    spec = pb.DeploymentSpec(
        name=name,
        code=capture(deployment.func_or_class),
        init_args=init_args,
        calls=calls,
        options=options_message(deployment),
        http_adapter=capture(adapter) if adapter is not None else None,
    )
    _add_autoscaling(spec, deployment)
    return spec


class OptionError(ValueError):
    """An option of a deployment names what is not there."""

    def __init__(self, deployment: str, option: tuple[str, ...], problem: str) -> None:
        super().__init__(f"deployment {deployment!r}: option {'.'.join(option)!r}: {problem}")
        self.deployment = deployment
        self.option = option


_POLICY = ("autoscaling_config", "policy", "policy_function")


class _Packages:
    """The files of runtime_envs. What deployments share is read once."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Path, bool], str] = {}

    def add_to(self, spec: pb.DeploymentSpec, deployment: Deployment[..., Any]) -> None:
        """Raises ValueError, naming the deployment, the option and what is wrong."""
        resources = deployment.config.ray_actor_options
        env = resources.runtime_env if resources is not None else None
        if env is None:
            return
        try:
            option = "working_dir"
            if env.working_dir is not None:
                spec.working_dir.CopyFrom(self._package(env.working_dir, is_module=False))
            option = "py_modules"
            spec.py_modules.extend(
                self._package(module, is_module=True) for module in env.py_modules or ()
            )
        except packages.PackageError as error:
            path = ("ray_actor_options", "runtime_env", option)
            raise OptionError(spec.name, path, str(error)) from None

    def _package(self, path: str, *, is_module: bool) -> pb.Package:
        source = Path(os.path.abspath(os.path.expanduser(path)))
        if (source, is_module) not in self._digests:
            self._digests[source, is_module] = packages.digest(source, is_module=is_module)
        return pb.Package(digest=self._digests[source, is_module], source=str(source))


def _add_autoscaling(spec: pb.DeploymentSpec, deployment: Deployment[..., Any]) -> None:
    config = deployment.config.autoscaling_config
    if config is None:
        return
    values = config.model_dump(exclude={"policy"}, exclude_none=True)
    if config.policy is not None:
        function = config.policy.policy_function
        if isinstance(function, str):
            function = _imported(function, deployment.name)
        spec.autoscaling_policy.CopyFrom(capture(function))
        values["policy"] = {"policy_function": name_of(function)}
    spec.options.autoscaling_config_json = json.dumps(values, sort_keys=True)


def _imported(path: str, deployment: str) -> Callable[..., Any]:
    """The function at "package.module:function", or with a dot as Ray Serve has it too."""
    module, _, name = path.rpartition(":" if ":" in path else ".")
    try:
        found = operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(deployment, _POLICY, f"{path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise OptionError(deployment, _POLICY, f"{path!r} is no function")
    return cast("Callable[..., Any]", found)


def options_message(deployment: Deployment[..., Any]) -> pb.DeploymentOptions:
    """The options of a deployment as they travel."""
    config = deployment.config
    return pb.DeploymentOptions(
        num_replicas=config.num_replicas,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        user_config_json=_json(config.user_config),
        graceful_shutdown_timeout_s=config.graceful_shutdown_timeout_s,
        graceful_shutdown_wait_loop_s=config.graceful_shutdown_wait_loop_s,
        health_check_period_s=config.health_check_period_s,
        health_check_timeout_s=config.health_check_timeout_s,
        blocked_loop_timeout_s=config.blocked_loop_timeout_s,
        rolling_update_percentage=config.rolling_update_percentage,
        max_surge_percent=config.max_surge_percent,
        max_replicas_per_node=config.max_replicas_per_node or 0,
        ray_actor_options_json=_json(
            config.ray_actor_options and config.ray_actor_options.model_dump(exclude_none=True)
        ),
    )


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, sort_keys=True)


def _add_versions(specs: list[pb.DeploymentSpec], salt: str) -> bytes:
    """Gives deployments their versions, and the sources that these keep; returns the package of
    these. Only now all modules are loaded: pickling, too, may import some."""
    modules = sources.loaded()
    content = sources.as_file(modules)
    archive = packages.of_file(sources.FILE, content) if content else b""
    for spec in specs:
        spec.version = _version(spec, modules, salt)
        if spec.HasField("autoscaling_policy"):
            policy_version = fingerprint([spec.autoscaling_policy], modules)
            spec.options.autoscaling_policy_version = policy_version
        if archive:
            spec.sources.digest = hashlib.sha256(archive).hexdigest()
    return archive


def _version(spec: pb.DeploymentSpec, modules: list[Module], salt: str) -> str:
    """A hash of all that takes a new process to change. Files count by what is in them, not by
    where they are."""
    codes = [spec.code, pb.Code(pickled=spec.init_args), spec.http_adapter]
    digest = hashlib.sha256()
    for part in (
        fingerprint(codes, modules).encode(),
        _without_paths(spec.options.ray_actor_options_json).encode(),
        *(package.digest.encode() for package in (spec.working_dir, *spec.py_modules)),
        salt.encode(),
    ):
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()[:16]


def archives(*specs: pb.ApplicationSpec) -> dict[str, Callable[[], Iterator[bytes]]]:
    """What makes the packages of applications, by their digests. Calling one may raise
    PackageError."""
    found: dict[str, Callable[[], Iterator[bytes]]] = {}
    for spec in specs:
        for deployment in spec.deployments:
            if deployment.HasField("sources"):
                found[deployment.sources.digest] = partial(packages.pieces, spec.sources_archive)
            for package, is_module in _files(deployment):
                make = partial(packages.chunks, Path(package.source), is_module=is_module)
                found[package.digest] = make
    return found


def _files(deployment: pb.DeploymentSpec) -> Iterator[tuple[pb.Package, bool]]:
    """Of its runtime_env, and whether they are a module."""
    yield deployment.working_dir, False
    yield from ((module, True) for module in deployment.py_modules)


def _without_paths(ray_actor_options_json: str) -> str:
    options = json.loads(ray_actor_options_json or "{}")
    for key in ("working_dir", "py_modules"):
        options.get("runtime_env", {}).pop(key, None)
    return _json(options)
