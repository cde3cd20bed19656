"""The OpenAPI description of the REST API, and a page that shows it with nothing from the net."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from pydantic.json_schema import models_json_schema

from serving.admin.details import InstanceDetails

PATH = "/api/serve/applications/"
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_REFUSALS = {
    "401": {"description": "The token is required, and was not shown.", "content": _TEXT},
    "403": {"description": "A page of another site, or a strange Host.", "content": _TEXT},
    "503": {"description": "The controller is away; it is being started again.", "content": _TEXT},
}


def openapi(version: str) -> dict[str, Any]:
    """The description, as OpenAPI 3.1."""
    _, schemas = models_json_schema(
        [(InstanceDetails, "serialization")], ref_template="#/components/schemas/{model}"
    )
    details = {"application/json": {"schema": {"$ref": "#/components/schemas/InstanceDetails"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "serving", "version": version},
        "paths": {
            PATH: {
                "get": _operation(
                    "The cluster and all applications.",
                    {"200": {"description": "What runs.", "content": details}},
                ),
                "put": {
                    **_operation(
                        "Deploy these applications, and delete all others.",
                        {
                            "200": {"description": "Accepted; GET tells how it goes."},
                            "400": {"description": "The config is wrong.", "content": _TEXT},
                            "413": {"description": "The config is too large.", "content": _TEXT},
                            "422": {
                                "description": "An application cannot be imported. "
                                "Nothing was changed.",
                                "content": _TEXT,
                            },
                        },
                    ),
                    "requestBody": {
                        "required": True,
                        "description": "A config file of Ray Serve's schema, as JSON.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                },
                "delete": _operation(
                    "Delete all applications; the cluster stays.",
                    {"200": {"description": "They end once their requests are done."}},
                ),
            }
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": responses | _REFUSALS}


def page(description: dict[str, Any]) -> str:
    """The description as a web page."""
    operations = "".join(
        f"<h2>{verb.upper()} {path}</h2><p>{escape(operation['summary'])}</p>"
        + "<table>"
        + "".join(
            f"<tr><td>{status}<td>{escape(response['description'])}"
            for status, response in operation["responses"].items()
        )
        + "</table>"
        for path, verbs in description["paths"].items()
        for verb, operation in verbs.items()
    )
    schemas = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(json.dumps(schema, indent=1))}"
        "</pre></details>"
        for name, schema in description["components"]["schemas"].items()
    )
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:16px sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "td{padding:.2em 1em .2em 0;vertical-align:top}</style>"
        f"<h1>{title}</h1><p>As <a href=openapi.json>openapi.json</a>.</p>"
        f"{operations}<h2>Schemas</h2>{schemas}"
    )
