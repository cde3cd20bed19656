"""Deployments and applications: what the user's decorators record. Nothing runs here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Never,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from serving.names import check_deployment_name

if TYPE_CHECKING:
    from typing_extensions import ParamSpec as _ParamSpec, TypeVar as _TypeVar

    from serving.config import AutoscalingConfig, DeploymentOptions

    # Type checkers take an application for the handle that arrives in its place. Then a
    # constructor that wants a handle takes the application, nested in lists and dicts too.
    from serving.handle import DeploymentHandle as _Arrives

    P = _ParamSpec("P", default=...)
    T_co = _TypeVar("T_co", covariant=True, default=Any)
else:
    _Arrives = Generic
    P = ParamSpec("P")
    T_co = TypeVar("T_co", covariant=True)

Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_SCALES = ("num_replicas", "autoscaling_config")


class Options(TypedDict, total=False):
    """What `deployment` and `.options` take, as `serving.config.DeploymentOptions` tells."""

    name: str
    num_replicas: int | Literal["auto"] | None
    autoscaling_config: AutoscalingConfig | dict[str, Any] | None
    max_ongoing_requests: int
    max_queued_requests: int
    user_config: Any
    ray_actor_options: dict[str, Any] | None
    max_replicas_per_node: int | None
    graceful_shutdown_timeout_s: float
    graceful_shutdown_wait_loop_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    blocked_loop_timeout_s: float | None
    rolling_update_percentage: float
    max_surge_percent: float
    http_adapter: Callable[..., Any] | None


@dataclass(frozen=True)
class Deployment(Generic[P, T_co]):
    """A class or function, and how to serve it. Made by `serving.deployment`."""

    func_or_class: Callable[P, T_co]
    """The decorated class or function itself, unchanged."""
    name: str
    config: DeploymentOptions
    given: tuple[tuple[str, Any], ...] = ()
    """The options that were given, in order; the rest of `config` is defaults."""

    def options(self, **options: Unpack[Options]) -> Deployment[P, T_co]:
        """The same deployment with some options changed; this one stays as it is.

        Raises TypeError for an unknown option, ValueError for a wrong value.
        """
        name = options.pop("name", self.name)
        check_deployment_name(name)
        given = {**dict(self.given), **options}
        # The newer of these two takes the place of the other, where that is not given as well.
        for one, other in (_SCALES, _SCALES[::-1]):
            if options.get(one) is not None and other not in options:
                given.pop(other, None)
        return replace(self, name=name, config=_config(name, given), given=tuple(given.items()))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Application[T_co]:
        """An application of this deployment whose object is constructed with these arguments.

        Bound deployments among them, wherever they stand, become deployments of the application,
        and the constructor gets a `DeploymentHandle` in the place of each.

        Raises TypeError where the arguments do not fit the constructor.
        """
        if inspect.isclass(self.func_or_class):
            self._check_arguments(args, kwargs)
        elif args or kwargs:
            raise TypeError(
                f"deployment {self.name!r} is a function, which is called with each request: "
                "bind() takes no arguments here; make it a class to construct it with some"
            )
        return Application(self, args, kwargs)

    def _check_arguments(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        try:
            signature = inspect.signature(self.func_or_class)
        except ValueError:  # a class written in C may not tell
            signature = None
        if signature is not None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(
                    f"deployment {self.name!r}: bind() does not fit the constructor "
                    f"{self.func_or_class.__qualname__}{signature}: {error}"
                ) from None
            named = signature.bind(*args, **kwargs).arguments
        else:
            named = {str(index): value for index, value in enumerate(args)} | kwargs
        for parameter, value in named.items():
            if (unbound := _unbound(value)) is not None:
                raise TypeError(
                    f"deployment {self.name!r}: the argument {parameter!r} holds deployment "
                    f"{unbound.name!r}, which is not bound: pass {unbound.name}.bind(...)"
                )

    @overload
    def __call__(self: Deployment[[], _Called[Q, R]], *args: Q.args, **kwargs: Q.kwargs) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the decorated object: a class gives a plain instance, in this process."""
        return self.func_or_class(*args, **kwargs)

    if not TYPE_CHECKING:  # checkers know that it has none

        def remote(self, *args: object, **kwargs: object) -> Never:
            raise TypeError(
                f"deployment {self.name!r} does not run: serve it with serving.run("
                f"{self.name}.bind(...)), and call the handle that this returns"
            )

    def __repr__(self) -> str:
        given = "".join(f", {option}={value!r}" for option, value in self.given)
        return f"Deployment({self.name!r}{given})"


@dataclass(frozen=True)
class Application(_Arrives[T_co]):
    """A deployment and the arguments of its constructor. Made by `Deployment.bind`."""

    deployment: Deployment[..., T_co]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        return f"Application({self.deployment.name!r})"

    if TYPE_CHECKING:

        def remote(self, it_does_not_run: Never, /) -> Any:  # type: ignore[override]
            """Call the handle that `serving.run` returns, or that a constructor gets."""

        def options(self, it_does_not_run: Never, /) -> Any:  # type: ignore[override]
            """Change the deployment before it is bound, or the handle."""

    else:

        def remote(self, *args: object, **kwargs: object) -> Never:
            raise TypeError(
                f"{self!r} does not run: call the handle that serving.run returns, or that a "
                "constructor gets in its place"
            )


if TYPE_CHECKING:

    class DecoratedClass(type, Deployment[..., Any]):
        """The metaclass that the mypy plugin gives to decorated classes: what their names mean."""

        func_or_class: Any
        bind: Any
        options: Any


class _Function(Protocol):
    """A function and not a class, as far as a type checker can tell them apart."""

    @property
    def __closure__(self) -> Any: ...
    @property
    def __globals__(self) -> Any: ...


class _Called(_Function, Protocol[Q, R_co]):
    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...


F = TypeVar("F", bound=_Function)


class _Decorator(Protocol):
    @overload
    def __call__(self, func_or_class: F, /) -> Deployment[[], F]: ...
    @overload
    def __call__(self, func_or_class: Callable[P, R], /) -> Deployment[P, R]: ...


@overload
def deployment(func_or_class: F, /) -> Deployment[[], F]: ...
@overload
def deployment(func_or_class: Callable[P, R], /) -> Deployment[P, R]: ...
@overload
def deployment(**options: Unpack[Options]) -> _Decorator: ...
def deployment(func_or_class: Any = None, /, **options: Any) -> Any:
    """Marks a class or a function as a deployment, to be served by processes of its own.

    Used bare, `@serving.deployment`, or with options, `@serving.deployment(num_replicas=2)`;
    `serving.config.DeploymentOptions` lists them. `name` is that of the class or function unless
    given. Raises TypeError for an unknown option, ValueError for a wrong value.
    """

    def decorate(target: Any, /) -> Deployment[..., Any]:
        if isinstance(target, Deployment):
            raise TypeError(f"{target!r} is a deployment already; change it with .options(...)")
        if not (inspect.isclass(target) or inspect.isroutine(target)):
            raise TypeError(
                f"@serving.deployment marks a class or a function, not {type(target).__name__!r}"
            )
        given = dict(options)
        name = given.pop("name", None) or target.__name__
        check_deployment_name(name)
        return Deployment(target, name, _config(name, given), tuple(given.items()))

    return decorate if func_or_class is None else decorate(func_or_class)


def _config(name: str, given: dict[str, Any]) -> DeploymentOptions:
    # pydantic takes longer to import than all the rest of this package's surface.
    from serving.config import DeploymentOptions, validated

    return validated(DeploymentOptions, given, f"deployment {name!r}")


def _unbound(value: object) -> Deployment[..., Any] | None:
    """The first deployment in an argument that was passed without `.bind()`."""
    if isinstance(value, Deployment):
        return value
    items: Iterable[object] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        items = value
    return next((found for item in items if (found := _unbound(item)) is not None), None)
