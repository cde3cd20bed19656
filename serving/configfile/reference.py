"""The schema for readers: a JSON Schema for editors, and the table of all keys for the manual."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticUndefined, core_schema

from serving.configfile.schema import Ignored, ServeDeploySchema
from serving.configfile.validation import section_of

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Functions that Python takes are import paths in a config."""

    def callable_schema(self, schema: core_schema.CallableSchema) -> JsonSchemaValue:
        return {"type": "string"}


def json_schema_text() -> str:
    """The JSON Schema of a config."""
    schema = ServeDeploySchema.model_json_schema(schema_generator=_Generator)
    models = {model.__name__: model for _, model in sections()}
    definitions = schema.pop("$defs", {})
    for name, definition in (*definitions.items(), ("ServeDeploySchema", schema)):
        if name in models:
            _complete(definition, models[name])
    whole = {"$schema": _DIALECT, **schema, "title": "serving config", "$defs": definitions}
    return json.dumps(whole, indent=2) + "\n"


def _complete(definition: dict[str, Any], model: type[BaseModel]) -> None:
    """Says what each key means, and allows null where it means that nothing is given."""
    texts = documentation(model)
    definition["description"] = inspect.cleandoc(model.__doc__ or "")
    definition.pop("title", None)
    required = definition.get("required", [])
    for key, value in definition["properties"].items():
        value.pop("title", None)
        if text := texts.get(key):
            value["description"] = text
        if key not in required:
            _allow_null(value)


def _allow_null(value: dict[str, Any]) -> None:
    if isinstance(value.get("type"), str) and "enum" not in value and value["type"] != "null":
        value["type"] = [value["type"], "null"]
    elif "enum" in value and None not in value["enum"]:
        value["enum"] = [*value["enum"], None]
        value.pop("type", None)
    elif "$ref" in value:
        value["anyOf"] = [{"$ref": value.pop("$ref")}, {"type": "null"}]
    elif "anyOf" in value and {"type": "null"} not in value["anyOf"]:
        value["anyOf"].append({"type": "null"})


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections of a config, each with where it stands: `applications[].deployments[]`."""
    yield from _sections(ServeDeploySchema, "", set())


def _sections(
    model: type[BaseModel], place: str, seen: set[type[BaseModel]]
) -> Iterator[tuple[str, type[BaseModel]]]:
    seen.add(model)
    yield place, model
    for key, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None and inner not in seen:
            brackets = "[]" if "list[" in str(field.annotation) else ""
            yield from _sections(inner, f"{place}.{key}{brackets}".removeprefix("."), seen)


def reference_text() -> str:
    """The sections as Markdown: a table of keys, defaults and meanings each."""
    parts = []
    for place, model in sections():
        title = f"`{place}`" if place else "The top level"
        parts.append(f"## {title}\n\n{inspect.cleandoc(model.__doc__ or '')}\n\n{_table(model)}")
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> str:
    texts = documentation(model)
    lines = ["| key | what it holds | default | meaning |", "|---|---|---|---|"]
    fields = sorted(model.model_fields.items(), key=lambda each: (_rank(each[1]), each[0]))
    for key, field in fields:
        text = texts.get(key, "").replace("|", "\\|")
        lines.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {text} |")
    return "\n".join(lines) + "\n"


def _rank(field: FieldInfo) -> int:
    """Needed ones first, those without effect last."""
    if field.is_required():
        return 0
    return 2 if any(isinstance(mark, Ignored) for mark in field.metadata) else 1


_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}


def _kind(field: FieldInfo) -> str:
    """What a key holds, in words."""
    if section_of(field.annotation) is not None:
        return f"{'list of mappings' if 'list[' in str(field.annotation) else 'mapping'}, see below"
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    return _words(adapter.json_schema(schema_generator=_Generator))


def _words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        options = [each for each in schema["anyOf"] if each != {"type": "null"}]
        return " or ".join(dict.fromkeys(map(_words, options)))
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in allowed)
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_words(schema['items'])}"
    kind = _KINDS.get(schema.get("type", ""), "anything")
    bounds = [text.format(f"{schema[key]:g}") for key, text in _BOUNDS.items() if key in schema]
    return " ".join([kind, *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel) or value in (None, [], {}) or value is PydanticUndefined:
        return ""
    return f"`{json.dumps(value)}`"


def documentation(model: type[BaseModel]) -> dict[str, str]:
    """What the source says below each field of a model, and of what does nothing, why."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__.startswith("serving."):
            found |= _own_documentation(base)
    for key, field in model.model_fields.items():
        for mark in (mark for mark in field.metadata if isinstance(mark, Ignored)):
            found[key] = f"{found.get(key, '')} Does nothing: {mark.why}.".strip()
    return found


def _own_documentation(model: type[BaseModel]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(ast.literal_eval(below.value).split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
    }
