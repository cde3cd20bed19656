"""What is published of the schema."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from serving.configfile.reference import documentation, json_schema_text, sections

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("SERVING_HTTP_PORT", raising=False)
    spec = importlib.util.spec_from_file_location("make_config", REPOSITORY / "docs/make_config.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_schema_is_that_of_the_code(script: ModuleType) -> None:
    assert script.SCHEMA.read_text() == json_schema_text(), "run `make reference`"


def test_manual_has_every_key_of_the_code(script: ModuleType) -> None:
    assert script.MANUAL.read_text() == script.manual_text(), "run `make reference`"


def test_schema_refuses_unknown_keys_and_names_what_is_needed() -> None:
    schema = json.loads(json_schema_text())

    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
    assert schema["required"] == ["applications"]
    assert schema["$defs"]["ServeApplicationSchema"]["required"] == ["import_path"]
    assert schema["$defs"]["DeploymentSchema"]["required"] == ["name"]


def test_every_key_says_what_it_means() -> None:
    silent = {
        f"{model.__name__}.{key}"
        for _, model in sections()
        for key in model.model_fields.keys() - documentation(model).keys()
    }

    assert silent <= {
        "HTTPOptionsSchema.ssl_keyfile",
        "RayActorOptionsSchema.num_cpus",
        "RayActorOptionsSchema.num_gpus",
        "RayActorOptionsSchema.resources",
    }
