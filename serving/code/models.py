"""pydantic models and dataclasses travel as fields and validators; schemas are made on arrival.

A schema names classes by their addresses, and what it was compiled to is large.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_MADE = ("__pydantic_core_schema__", "__pydantic_validator__", "__pydantic_serializer__")


def is_model(cls: type) -> bool:
    """Whether `cls` is a pydantic model or a pydantic dataclass itself, not by inheritance only."""
    return "pydantic" in sys.modules and "__pydantic_complete__" in vars(cls)


def is_parametrized(cls: type) -> bool:
    """Whether `cls` is a generic model with its parameters given, such as `Page[Item]`."""
    metadata = getattr(cls, "__pydantic_generic_metadata__", None) if is_model(cls) else None
    return metadata is not None and metadata["origin"] is not None


def rebuild(cls: Any) -> None:
    """Makes the schema of a model; where a type is not known yet, pydantic tries again later."""
    if hasattr(cls, "model_rebuild"):
        cls.model_rebuild(force=True, raise_errors=False)
    else:
        sys.modules["pydantic"].dataclasses.rebuild_dataclass(cls, force=True, raise_errors=False)


def without_schemas(cls: type, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of a model without what is made from the others."""
    if not is_model(cls):
        return attributes
    kept = {name: value for name, value in attributes.items() if name not in _MADE}
    if vars(cls)["__pydantic_complete__"]:  # else its types may yet be found there
        kept["__pydantic_parent_namespace__"] = None
    return kept
