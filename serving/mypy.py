"""The mypy plugin: `plugins = ["serving.mypy"]`. docs/typing.md tells what it adds.

mypy takes a decorated class for the class that it was, whatever the decorator returns. Here such a
class gets a metaclass that is a `Deployment`: in annotations it means the class still, and
`Model.bind` is found. The other hooks say what no annotation can: which methods a handle has, and
that an argument may be the response of another call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from mypy.checker import TypeChecker
from mypy.erasetype import erase_typevars
from mypy.errorcodes import ARG_TYPE, ATTR_DEFINED, CALL_OVERLOAD, MISC, ErrorCode
from mypy.maptype import map_instance_to_supertype
from mypy.messages import format_type_bare
from mypy.nodes import ARG_STAR, ARG_STAR2, Expression, StrExpr, TypeInfo
from mypy.plugin import (
    AttributeContext,
    ClassDefContext,
    FunctionContext,
    FunctionSigContext,
    MethodContext,
    MethodSigContext,
    Plugin,
)
from mypy.subtypes import is_same_type, is_subtype
from mypy.typeops import make_simplified_union
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    Overloaded,
    Parameters,
    ProperType,
    TupleType,
    Type,
    TypeOfAny,
    TypeVarType,
    UninhabitedType,
    UnionType,
    get_proper_type,
)

_DECORATOR = "serving.deployment.deployment"
_DECORATED = "serving.deployment.DecoratedClass"
_DEPLOYMENT = "serving.deployment.Deployment"
_APPLICATION = "serving.deployment.Application"
_HANDLE = "serving.handle.DeploymentHandle"
_STREAMING = "serving.handle.Streaming"
_RESPONSE = "serving.handle.DeploymentResponse"
_BATCH = "serving.batching.decorator.batch"
_BATCH_DECORATOR = "serving.batching.decorator._Decorator"
_BATCHED = tuple(f"serving.batching.decorator.{name}" for name in ("BatchedCall", "BatchedMethod"))
_CONTAINERS = ("builtins.list", "builtins.dict", "builtins.tuple")
_RUNS = ("serving.api.run", "serving.testing.run")
_Context = (
    AttributeContext | FunctionContext | FunctionSigContext | MethodContext | MethodSigContext
)
_ITERATORS = ("typing.Iterator", "typing.AsyncIterator")


class ServingPlugin(Plugin):
    """Each hook is found by the full name of what is used."""

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        return _decorate if fullname == _DECORATOR else None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        if owner == _DECORATED and name in ("bind", "options", "func_or_class"):
            return lambda context: _deployment_member(context, name)
        if owner == _HANDLE and not _is_member(self, owner, name):
            return lambda context: _handle_attribute(context, name)
        return None

    def get_method_signature_hook(
        self, fullname: str
    ) -> Callable[[MethodSigContext], FunctionLike] | None:
        if fullname.endswith(".bind") or fullname in (
            f"{_HANDLE}.remote",
            f"{_APPLICATION}.remote",
        ):
            return _admit_what_arrives
        return None

    def get_function_signature_hook(
        self, fullname: str
    ) -> Callable[[FunctionSigContext], FunctionLike] | None:
        return _refuse_unbound if fullname in _RUNS else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return _batched if fullname == _BATCH else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        if fullname == f"{_BATCH_DECORATOR}.__call__":
            return _batched
        if fullname == f"{_HANDLE}.remote":
            return _refuse_generator
        if fullname == f"{_HANDLE}.options":
            return _handle_options
        return None


def plugin(version: str) -> type[Plugin]:
    """What mypy calls."""
    return ServingPlugin


def _is_member(plugin: Plugin, owner: str, name: str) -> bool:
    found = plugin.lookup_fully_qualified(owner)
    return found is not None and name in getattr(found.node, "names", ())


# Decorated classes


def _decorate(context: ClassDefContext) -> bool:
    metaclass = context.api.named_type_or_none(_DECORATED)
    if metaclass is None:
        return False  # the module is not analyzed yet: called again
    context.cls.info.metaclass_type = metaclass
    return True


def _deployment_member(context: AttributeContext, name: str) -> Type:
    """Of a class object, which is a Deployment: a member that depends on the constructor."""
    if not isinstance(context.type, FunctionLike):
        return context.default_attr_type
    items = context.type.items
    members = [_member(context, name, _deployment(context, constructor)) for constructor in items]
    if name == "bind" and all(isinstance(member, CallableType) for member in members):
        return _one_of([member for member in members if isinstance(member, CallableType)])
    return members[0]


def _one_of(items: list[CallableType]) -> FunctionLike:
    return items[0] if len(items) == 1 else Overloaded(items)


def _deployment(context: AttributeContext, constructor: CallableType) -> Instance:
    parameters = Parameters(
        constructor.arg_types,
        constructor.arg_kinds,
        constructor.arg_names,
        variables=constructor.variables,
    )
    return _instance(context, _DEPLOYMENT, parameters, constructor.ret_type)


# Handles


def _handle_attribute(context: AttributeContext, name: str) -> Type:
    """`handle.method`: a handle of that method."""
    if name.startswith("_"):
        if not name.endswith("__"):
            _fail(context, f'"{name}": to call a private method, use options(method_name=...)')
        return context.default_attr_type
    if _argument(context.type, _APPLICATION) is not None:
        _fail(context, f'an application has no "{name}": call the handle that serving.run returns')
        return context.default_attr_type
    return _method_handle(context, name, context.type, context.default_attr_type)


def _handle_options(context: MethodContext) -> Type:
    """`handle.options(method_name="method")`: likewise, where the name stands there."""
    given = dict(zip(context.callee_arg_names, context.args, strict=True))
    method_name = given.get("method_name", [])
    if len(method_name) != 1 or not isinstance(method_name[0], StrExpr):
        return context.default_return_type
    handle = context.type
    stream = [context.api.get_expression_type(value) for value in given.get("stream", [])]
    served = _argument(handle, _HANDLE)
    if stream and served is not None and _argument(served, _STREAMING) is None:
        literal = get_proper_type(stream[0])
        if not isinstance(literal, Instance) or literal.last_known_value is None:
            return context.default_return_type
        if literal.last_known_value.value is True:
            handle = _instance(context, _HANDLE, _instance(context, _STREAMING, served))
    return _method_handle(context, method_name[0].value, handle, context.default_return_type)


def _method_handle(
    context: AttributeContext | MethodContext, name: str, handle: ProperType, unknown: Type
) -> Type:
    """The handle of a method of what `handle` is of; `unknown` where no type can say it."""
    served = _argument(handle, _HANDLE)
    streamed = _argument(served, _STREAMING)
    owner = streamed or served
    if owner is None or isinstance(owner, AnyType):
        return unknown
    method = _member(context, name, owner)
    if isinstance(method, AnyType | UnionType):
        return unknown
    if not _is_callable(method):
        _fail(context, f'"{name}" is no method: a handle calls methods only')
        return unknown
    if isinstance(method, Overloaded) or (isinstance(method, CallableType) and method.variables):
        return unknown  # what depends on the arguments does not pass through a ParamSpec
    return _instance(
        context, _HANDLE, _instance(context, _STREAMING, method) if streamed else method
    )


def _is_callable(value: ProperType) -> bool:
    return isinstance(value, FunctionLike) or (
        isinstance(value, Instance) and value.type.has_readable_member("__call__")
    )


def _refuse_generator(context: MethodContext) -> Type:
    """`handle.remote(...)`, of a generator without `stream=True`, raises TypeError."""
    found = get_proper_type(context.default_return_type)
    result = _argument(found, _RESPONSE)
    if isinstance(result, Instance) and any(result.type.has_base(name) for name in _ITERATORS):
        _fail(context, "it is a generator: call it with handle.options(stream=True)", CALL_OVERLOAD)
    return context.default_return_type


def _explain_self_argument(context: MethodSigContext) -> None:
    """Why no overload of `remote` is for this handle: mypy has only said that none is, and goes on
    with all of them."""
    assert isinstance(context.api, TypeChecker)
    served = _argument(context.type, _HANDLE)
    streamed = _argument(served, _STREAMING)
    owner = streamed or served
    if owner is None or isinstance(owner, AnyType):
        return
    if _is_callable(owner):
        message = "It is no generator: call it without stream=True"
    else:
        name = format_type_bare(owner, context.api.options)
        message = f'"{name}" has no "__call__": call one of its methods, handle.method.remote(...)'
    context.api.note(message, context.context, code=MISC)


# Arguments


def _admit_what_arrives(context: MethodSigContext) -> FunctionLike:
    """A signature that admits, for each argument, that which arrives as what is asked for."""
    signature = context.default_signature
    if not _is_bind_or_remote(context.type):
        return signature
    if _is_of_anything(signature) and not isinstance(_argument(context.type, _HANDLE), AnyType):
        _explain_self_argument(context)
    types = [
        _admitted(context, wanted, given)
        for wanted, given in zip(signature.arg_types, context.args, strict=True)
    ]
    if types and isinstance(_argument(signature.arg_types[0], _RESPONSE), TypeVarType):
        # What other checkers have in place of this hook: it would admit any response.
        types[0] = UninhabitedType()
    return signature.copy_modified(arg_types=types)


def _is_of_anything(signature: CallableType) -> bool:
    """Whether it is the overload for a handle that nothing is known of."""
    return signature.arg_kinds == [ARG_STAR, ARG_STAR2] and isinstance(
        get_proper_type(signature.ret_type), AnyType
    )


def _is_bind_or_remote(owner: ProperType) -> bool:
    if isinstance(owner, FunctionLike):
        return owner.fallback.type.has_base(_DEPLOYMENT)
    return isinstance(owner, Instance) and any(
        owner.type.has_base(name) for name in (_DEPLOYMENT, _HANDLE)
    )


def _admitted(context: MethodSigContext, wanted: Type, given: list[Expression]) -> Type:
    """`wanted`, or the type of the argument itself where only its arrival makes it fit."""
    assert isinstance(context.api, TypeChecker)
    with context.api.msg.filter_errors():
        for argument in given:
            hint = _with_responses(context, wanted)
            actual = context.api.get_expression_type(argument, hint)
            arrives = _arrives(context, actual)
            if not is_same_type(arrives, actual) and is_subtype(arrives, wanted):
                return actual
    return wanted


def _arrives(context: MethodSigContext, sent: Type) -> Type:
    """What the other side gets for a value of this type."""
    sent = get_proper_type(sent)
    if (result := _argument(sent, _RESPONSE)) is not None:
        return result
    if (served := _argument(sent, _APPLICATION)) is not None:
        return _instance(context, _HANDLE, served)
    if isinstance(sent, UnionType):
        return make_simplified_union([_arrives(context, item) for item in sent.items])
    return _within(sent, lambda item: _arrives(context, item))


def _with_responses(context: MethodSigContext, wanted: Type) -> Type:
    """What mypy should expect in the elements of a list or dict that is written there."""
    wanted = get_proper_type(wanted)
    if isinstance(wanted, UnionType):
        return UnionType.make_union([_with_responses(context, item) for item in wanted.items])
    return _within(
        wanted,
        lambda item: UnionType.make_union(
            [_with_responses(context, item), _instance(context, _RESPONSE, item)]
        ),
    )


def _within(value: ProperType, change: Callable[[Type], Type]) -> ProperType:
    """The type with what it holds changed, where it is one that is searched for responses."""
    if isinstance(value, Instance) and value.type.fullname in _CONTAINERS:
        return value.copy_modified(args=[change(item) for item in value.args])
    if isinstance(value, TupleType):
        return value.copy_modified(items=[change(item) for item in value.items])
    return value


def _refuse_unbound(context: FunctionSigContext) -> FunctionLike:
    """`serving.run(Model)`."""
    signature = context.default_signature
    for given in context.args[0]:
        value = get_proper_type(context.api.get_expression_type(given))
        if _is_unbound(value):
            _fail(context, "a deployment that is not bound: run what its bind(...) gives", ARG_TYPE)
            return _anything(signature)
    return signature


def _is_unbound(value: ProperType) -> bool:
    if isinstance(value, FunctionLike):
        return value.fallback.type.has_base(_DEPLOYMENT)
    return isinstance(value, Instance) and value.type.has_base(_DEPLOYMENT)


def _anything(signature: CallableType) -> CallableType:
    """The signature with nothing left to complain of."""
    unknown = AnyType(TypeOfAny.from_error)
    free = signature.copy_modified(arg_types=[unknown] * len(signature.arg_types))
    return cast(CallableType, erase_typevars(free)).copy_modified(variables=())


# Batches


def _batched(context: FunctionContext | MethodContext) -> Type:
    """`@serving.batch`: what takes lists becomes what takes items, by the names it gives them."""
    batched = get_proper_type(context.default_return_type)
    given = context.arg_types[0] if context.arg_types else []
    function = get_proper_type(given[0]) if given else None
    if (
        not isinstance(batched, Instance)
        or not isinstance(function, CallableType)
        or not any(batched.type.has_base(name) for name in _BATCHED)
    ):
        return context.default_return_type
    taken = int(function.arg_names[:1] == ["self"])
    items = [_item(wanted) for wanted in function.arg_types[taken:]]
    parameters = Parameters(
        [AnyType(TypeOfAny.special_form) if item is None else item for item in items],
        function.arg_kinds[taken:],
        function.arg_names[taken:],
    )
    return batched.copy_modified(args=[parameters, batched.args[1]])


def _item(wanted: Type) -> Type | None:
    """T, where a parameter is a `list[T]`; None for what is no list."""
    wanted = get_proper_type(wanted)
    if isinstance(wanted, UnionType):  # `list[T] | None`: who calls may leave it out
        items = [_item(item) for item in wanted.items]
        return next((item for item in items if item is not None), None)
    if isinstance(wanted, Instance) and wanted.type.has_base("typing.Sequence"):
        base = next(base for base in wanted.type.mro if base.fullname == "typing.Sequence")
        return map_instance_to_supertype(wanted, base).args[0]
    return None


# Types


def _argument(value: Type | None, generic: str) -> ProperType | None:
    """T, where `value` is `generic[T]`."""
    value = get_proper_type(value)
    if isinstance(value, Instance) and value.type.has_base(generic):
        base = next(base for base in value.type.mro if base.fullname == generic)
        return get_proper_type(map_instance_to_supertype(value, base).args[0])
    return None


def _instance(context: _Context, generic: str, *arguments: Type) -> Instance:
    assert isinstance(context.api, TypeChecker)
    module, _, name = generic.rpartition(".")
    # Not by `named_generic_type`: in `serving`, `deployment` is the function and not the module.
    info = context.api.modules[module].names[name].node
    assert isinstance(info, TypeInfo)
    return Instance(info, arguments)


def _member(context: AttributeContext | MethodContext, name: str, owner: Type) -> ProperType:
    """The type of `owner.name`; an error where there is none."""
    assert isinstance(context.api, TypeChecker)
    check = context.api.expr_checker
    return get_proper_type(check.analyze_external_member_access(name, owner, context.context))


def _fail(context: _Context, message: str, code: ErrorCode = ATTR_DEFINED) -> None:
    context.api.fail(message, context.context, code=code)
