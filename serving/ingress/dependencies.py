"""`Depends(a method of the class)`, as a parameter's default, in `Annotated`, or nested deeper.

FastAPI learns of dependencies from signatures. So a callable whose parameters depend on a method
gets a `__signature__` that says the bound method instead. The callable itself stays what it was:
FastAPI's cache of results and `dependency_overrides` know it by identity.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Iterable
from types import MethodType
from typing import Annotated, Any, get_args, get_origin

from serving.ingress.methods import ForeignMethodError, Methods


class Dependencies:
    """Binds callables, and whatever they depend on, to one instance."""

    def __init__(self, methods: Methods) -> None:
        self.methods = methods
        params = sys.modules.get("fastapi.params")
        self._depends: Any = params.Depends if params is not None else ()
        self._done: dict[int, tuple[Any, bool]] = {}

    def bind(self, call: Any) -> tuple[Any, bool]:
        """What to call in place of `call`, and whether it or what it depends on has changed.

        Raises ForeignMethodError where `call` is a method of another ingress class.
        """
        bound = self.methods.bound(call)
        target = call if bound is None else bound
        function = target.__func__ if isinstance(target, MethodType) else target
        if id(function) not in self._done:
            self._done[id(function)] = (function, False)  # holds it, so that its id stays its own
            self._done[id(function)] = (function, self._bind_parameters(function))
        changed = bound is not None or self._done[id(function)][1]
        # Last: it has the signature that the method has by now.
        return self.methods.for_any_instance(target), changed

    def bind_all(self, dependencies: Iterable[Any]) -> tuple[list[Any], bool]:
        """The same for a list of `Depends`."""
        results = [self._bind_depends(item, None) for item in dependencies]
        return [item for item, _ in results], any(changed for _, changed in results)

    def _bind_parameters(self, function: Any) -> bool:
        signature = self._signature(function) if self._depends else None
        if signature is None:
            return False
        results = [self._bind_parameter(item) for item in signature.parameters.values()]
        parameters = [parameter for parameter, _ in results]
        if parameters != list(signature.parameters.values()):
            function.__signature__ = signature.replace(parameters=parameters)
        return any(changed for _, changed in results)

    def _signature(self, function: Any) -> inspect.Signature | None:
        """The signature with annotations evaluated, also where they name what the class holds."""
        try:
            return inspect.signature(function, eval_str=True)
        except NameError:
            with contextlib.suppress(NameError):
                namespace = self.methods.namespace
                signature = inspect.signature(function, eval_str=True, locals=namespace)
                function.__signature__ = signature
                return signature
            return inspect.signature(function)  # names that only a type checker sees
        except (TypeError, ValueError):  # not a Python callable: depends on nothing
            return None

    def _bind_parameter(self, parameter: inspect.Parameter) -> tuple[inspect.Parameter, bool]:
        annotation = parameter.annotation
        if type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        kind, *metadata = (
            get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        )
        default, changed = self._bind_depends(parameter.default, kind)
        results = [self._bind_depends(item, kind) for item in metadata]
        if any(new is not old for (new, _), old in zip(results, metadata, strict=True)):
            annotation = Annotated[(kind, *(new for new, _ in results))]
            parameter = parameter.replace(annotation=annotation)
        if default is not parameter.default:
            parameter = parameter.replace(default=default)
        return parameter, changed or any(changed for _, changed in results)

    def _bind_depends(self, depends: Any, annotation: Any) -> tuple[Any, bool]:
        """A `Depends` on the bound method in place of one on the method; all else as it is."""
        if not isinstance(depends, self._depends):
            return depends, False
        call = depends.dependency or annotation
        try:
            bound, changed = self.bind(call)
        except ForeignMethodError:
            return depends, False
        if bound is not call:
            depends = copy.copy(depends)
            object.__setattr__(depends, "dependency", bound)  # frozen in newer versions
        return depends, changed
