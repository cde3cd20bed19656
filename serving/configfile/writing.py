"""Config files as text: of what code gives, and of what is deployed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from serving.v1 import controller_pb2 as pb

# Options of code that a config cannot hold.
_ONLY_IN_CODE = {"http_adapter"}
_BUILT = """\
# Written by `serving build`. docs/config.md has all keys; `serving check` finds mistakes.
# Options that are given here win over those in the code; what is left out is as the code has it.
"""


def built_text(applications: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """The config of applications: each has its section, and the options that its code gives each
    deployment."""
    parts = [_BUILT, "applications:\n"]
    for section, given in applications:
        parts.append(_item(section, indent="  "))
        parts.append("    deployments:\n")
        for name, options in given.items():
            plain = {key: value for key, value in options.items() if key not in _ONLY_IN_CODE}
            parts.append(_item({"name": name} | _without_nulls(plain), indent="      "))
            parts += [
                f"        # {key} is given in the code, and cannot be given here.\n"
                for key in options.keys() & _ONLY_IN_CODE
            ]
    return "".join(parts)


def _item(value: Mapping[str, Any], indent: str) -> str:
    """A mapping as an item of a list."""
    lines = _yaml(dict(value)).splitlines()
    return "".join(
        f"{indent}{'  ' if number else '- '}{line}\n" for number, line in enumerate(lines)
    )


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))


def _without_nulls(value: Any) -> Any:
    """What is None is not given."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value


def deployed_text(status: pb.ServeStatus) -> str:
    """The config of what a cluster runs: as it was deployed, and with the options that the
    cluster was started with. What came from a script has no section, and is named."""
    options = json.loads(status.options_json or "{}")
    config: dict[str, Any] = {}
    http = options.get("http_options", {})
    if location := http.pop("location", None):
        config["proxy_location"] = location
    config["http_options"] = _without_nulls(http)
    grpc = options.get("grpc_options", {})
    if grpc.get("grpc_servicer_functions"):
        config["grpc_options"] = _without_nulls(grpc)
    config["logging_config"] = _without_nulls(options.get("logging_config", {}))
    running = [each for each in status.applications if each.status != "DELETING"]
    config["applications"] = [json.loads(each.config_json) for each in running if each.config_json]
    comments = [
        f"# Application {each.name!r} was deployed by a script, which knows where its code is.\n"
        for each in running
        if not each.config_json
    ]
    return _yaml(config) + "".join(comments)
