"""From values to a `ServeDeploySchema`, or to all that is wrong with them."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from serving.configfile.mistakes import ConfigError, Mistake, Path, path_text
from serving.configfile.schema import Ignored, ServeDeploySchema
from serving.configfile.source import Document

_SHOWN_LENGTH = 60
# By Ray Serve, since.
_RENAMED = {
    "max_concurrent_queries": "max_ongoing_requests",
    "target_num_ongoing_requests_per_replica": "target_ongoing_requests",
}
_NO_APPLICATIONS = "is empty: a deploy of this deletes all applications that run"
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}


def read(file: FilePath) -> tuple[ServeDeploySchema, Document]:
    """Reads a config file. Raises ConfigError with all its mistakes; OSError where it cannot."""
    document = Document(file.read_bytes(), str(file))
    try:
        return checked(document.values), document
    except ConfigError as error:
        raise ConfigError(map(document.located, error.mistakes), str(file)) from None


def checked(values: Any) -> ServeDeploySchema:
    """The config that these values are. Raises ConfigError with all their mistakes."""
    mistakes = list(_cross_checks(values))
    try:
        # Also where options take numbers as text in Python.
        config = ServeDeploySchema.model_validate(values, strict=True)
    except ValidationError as error:
        mistakes += _explained(error.errors(), values)
    if mistakes:
        raise ConfigError(mistakes)
    return config


def ignored(config: ServeDeploySchema) -> list[Mistake]:
    """What the config asks for that does nothing here, with reasons; and where it asks to delete
    all that runs."""
    empty = [] if config.applications else [Mistake(("applications",), _NO_APPLICATIONS)]
    return [*empty, *_ignored(config, ())]


def _ignored(section: BaseModel, path: Path) -> Iterator[Mistake]:
    for name, field in type(section).model_fields.items():
        if name not in section.model_fields_set:
            continue
        value, place = getattr(section, name), (*path, name)
        marks = [mark for mark in field.metadata if isinstance(mark, Ignored)]
        if marks and value:
            yield Mistake(place, f"has no effect: {marks[0].why}", of_key=True)
        elif isinstance(value, BaseModel):
            yield from _ignored(value, place)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _ignored(item, (*place, index))


# What fields do not know of each other


def _cross_checks(values: Any) -> Iterator[Mistake]:
    if not isinstance(values, dict):
        return
    applications = values.get("applications")
    if isinstance(applications, list):
        yield from _twice(applications, "name", "default")
        yield from _twice(applications, "route_prefix", "/")
        for index, application in enumerate(applications):
            if isinstance(application, dict):
                yield from _application_checks(application, ("applications", index))
    http = values.get("http_options")
    if isinstance(http, dict) and "location" in http and "proxy_location" in values:
        message = "stands at the top level already, as proxy_location: keep one of them"
        yield Mistake(("http_options", "location"), message, of_key=True)
    grpc = values.get("grpc_options")
    if isinstance(grpc, dict) and grpc.get("grpc_servicer_functions"):
        yield from _grpc_checks(values, http if isinstance(http, dict) else {}, grpc)


def _grpc_checks(
    values: dict[str, Any], http: dict[str, Any], grpc: dict[str, Any]
) -> Iterator[Mistake]:
    """Of services that are to be answered."""
    where = ("proxy_location",) if "proxy_location" in values else ("http_options", "location")
    if values.get("proxy_location", http.get("location")) in ("Disabled", "NoServer"):
        message = "leaves no proxy to answer for grpc_options.grpc_servicer_functions: keep one"
        yield Mistake(where, message)
    port = grpc.get("port")
    if port and port == http.get("port"):
        yield Mistake(("grpc_options", "port"), f"{port} is also that of http_options")


def _application_checks(application: dict[str, Any], path: Path) -> Iterator[Mistake]:
    for key in ("host", "port"):
        if application.get(key) is not None:
            message = "belongs under http_options at the top level: it is the same for all"
            yield Mistake((*path, key), message, of_key=True)
    deployments = application.get("deployments")
    if not isinstance(deployments, list):
        return
    yield from _twice(deployments, "name", None, (*path, "deployments"))
    if application.get("external_scaler_enabled") is not True:
        return
    for index, deployment in enumerate(deployments):
        if isinstance(deployment, dict) and deployment.get("autoscaling_config") is not None:
            message = "cannot stand beside external_scaler_enabled: true of its application"
            place = (*path, "deployments", index, "autoscaling_config")
            yield Mistake(place, message, of_key=True)


def _twice(
    items: list[Any], key: str, default: str | None, path: Path = ("applications",)
) -> Iterator[Mistake]:
    """Values of a key that two items share."""
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        value = item.get(key, default) if isinstance(item, dict) else None
        if not isinstance(value, str):
            continue
        before = first.setdefault(value, index)
        if before != index:
            given = repr(value) if key in item else f"{value!r}, as nothing is said,"
            message = f"{given} is also that of {path_text((*path, before))}; each needs its own"
            yield Mistake((*path, index, key), message)


# pydantic's errors in the words of a config


def _explained(problems: Any, values: Any) -> Iterator[Mistake]:
    """Those at one place, which are the alternatives of one value, become one mistake."""
    known = {(*found.path, found.path[-1:]) for found in _cross_checks(values)}
    by_place: dict[Path, list[Any]] = {}
    for problem in problems:
        by_place.setdefault(_place(problem, values), []).append(problem)
    for place, alternatives in by_place.items():
        if (*place, place[-1:]) in known:
            continue  # it is explained better there
        first = alternatives[0]
        if _is_one_application(values) and len(place) == 1:
            if place == ("applications",):
                message = "is one application: put it in a list, under 'applications:'"
                yield Mistake((), message)
        elif first["type"] == "extra_forbidden":
            yield Mistake(place, _unknown_key(place, values), of_key=True)
        elif first["type"] == "missing":
            if _is_there(place, values):
                yield Mistake(place, "is needed, and empty")
            else:
                yield Mistake(place[:-1], f"lacks the key {place[-1]!r}")
        else:
            texts = dict.fromkeys(map(_demand, alternatives))
            yield Mistake(place, f"{' or '.join(texts)}{_got(first, texts)}")


def _place(problem: Any, values: Any) -> Path:
    """Where in the config a problem is: the part of pydantic's path that is there, which ends
    before the names of a union's members."""
    place: Path = ()
    for part in problem["loc"]:
        if (
            isinstance(values, dict)
            and part in values
            or isinstance(part, int)
            and isinstance(values, list)
            and part < len(values)
        ):
            values = values[part]
        else:
            break
        place = (*place, part)
    return problem["loc"] if problem["type"] == "missing" else place


def _is_there(place: Path, values: Any) -> bool:
    for part in place[:-1]:
        values = values[part]
    return place[-1] in values


def _unknown_key(place: Path, values: Any) -> str:
    key, section = str(place[-1]), section_at(place[:-1])
    keys = sorted(_keys(section))
    message = f"there is no key {key!r} here"
    near = difflib.get_close_matches(key, keys, n=1)
    elsewhere = [
        name for name, other in _sections(ServeDeploySchema) if key in other.model_fields and name
    ]
    if key in _RENAMED:
        message += f"; it is called {_RENAMED[key]!r}"
    elif near:
        message += f"; did you mean {near[0]!r}?"
    elif elsewhere:
        message += f"; it belongs under {' or '.join(map(repr, dict.fromkeys(elsewhere)))}"
    return f"{message} (allowed: {', '.join(keys)})"


def _is_one_application(values: Any) -> bool:
    """Whether it is a file in the form that Ray Serve had before it knew several applications."""
    return isinstance(values, dict) and "import_path" in values and "applications" not in values


def _demand(problem: Any) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(' or ', ', ')}"
    for bound, words in (
        ("greater_than_equal", ("at least", "ge")),
        ("greater_than", ("above", "gt")),
        ("less_than_equal", ("at most", "le")),
        ("less_than", ("below", "lt")),
    ):
        if kind == bound:
            return f"must be {words[0]} {context[words[1]]:g}"
    name = kind.partition("_")[0]
    if kind.endswith(("_type", "_parsing", "_from_float")) and name in _KINDS:
        return f"must be {_KINDS[name]}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _got(problem: Any, texts: dict[str, None]) -> str:
    """What stands there instead, and what was meant maybe."""
    value = problem["input"]
    shown = _shown(value)
    if problem["type"] == "value_error" and (
        isinstance(value, dict | list) or any(repr(value) in text for text in texts)
    ):
        return ""
    hint = ""
    if isinstance(value, str):
        allowed = [word for text in texts for word in re.findall(r"'([^']*)'", text)]
        near = {word.lower(): word for word in allowed}
        found = difflib.get_close_matches(value.lower(), near, n=1)
        if found:
            hint = f"; did you mean {near[found[0]]!r}?"
        elif _is_number(value) and any("number" in text for text in texts):
            hint = ", which is text: leave out the quotes"
        elif any("true or false" in text for text in texts):
            hint = ", which is text"
        elif value.partition(":")[0] in _ALL_KEYS:
            hint = ": YAML wants a space behind the ':' of a key"
    elif isinstance(value, int | float) and any("must be text" in text for text in texts):
        hint = ", which is no text: put it in quotes"
    return f"; got {shown}{hint}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# The schema's sections


def section_at(path: Path) -> type[BaseModel]:
    """The section of the schema that stands at a path."""
    section: type[BaseModel] = ServeDeploySchema
    for part in path:
        if isinstance(part, str):
            found = section_of(section.model_fields[part].annotation)
            assert found is not None
            section = found
    return section


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or holds a list of, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, types.UnionType, Annotated):
        return next(filter(None, map(section_of, get_args(annotation))), None)
    return None


def _sections(section: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """All sections, each with the key that it stands under; the top level's is empty."""
    yield name, section
    for key, field in section.model_fields.items():
        inner = section_of(field.annotation)
        is_ignored = any(isinstance(mark, Ignored) for mark in field.metadata)
        if inner is not None and not is_ignored:
            yield from _sections(inner, key)


def _keys(section: type[BaseModel]) -> list[str]:
    """The keys that do something."""
    return [
        key
        for key, field in section.model_fields.items()
        if not any(isinstance(mark, Ignored) for mark in field.metadata)
        and field.annotation is not type(None)
    ]


_ALL_KEYS = {key for _, section in _sections(ServeDeploySchema) for key in section.model_fields}
