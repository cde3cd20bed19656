"""Config files that are written."""

from __future__ import annotations

import json

import yaml

from serving.configfile.validation import checked
from serving.configfile.writing import built_text, deployed_text
from serving.v1 import controller_pb2 as pb


def test_built_file_has_what_the_code_gives_and_says_what_it_cannot_hold() -> None:
    section = {"name": "default", "route_prefix": "/", "import_path": "app:app"}
    given = {
        "Ingress": {"num_replicas": 2, "http_adapter": "<function>"},
        "Model": {"ray_actor_options": {"num_gpus": 1.0, "memory": None}},
        "Plain": {},
    }

    text = built_text([(section, given)])

    assert text.splitlines()[2:] == [
        "applications:",
        "  - name: default",
        "    route_prefix: /",
        "    import_path: app:app",
        "    deployments:",
        "      - name: Ingress",
        "        num_replicas: 2",
        "        # http_adapter is given in the code, and cannot be given here.",
        "      - name: Model",
        "        ray_actor_options:",
        "          num_gpus: 1.0",
        "      - name: Plain",
    ]
    checked(yaml.safe_load(text))


def test_what_is_deployed_is_a_config_that_can_be_deployed() -> None:
    section = {"name": "a", "route_prefix": None, "import_path": "app:app"}
    options = {
        "http_options": {"host": "::1", "location": "HeadOnly"},
        "grpc_options": {"port": 9, "grpc_servicer_functions": ["pb.add"], "ssl_keyfile": None},
        "logging_config": {},
    }
    status = pb.ServeStatus(
        options_json=json.dumps(options),
        applications=[
            pb.ApplicationStatus(name="a", status="RUNNING", config_json=json.dumps(section)),
            pb.ApplicationStatus(name="b", status="RUNNING"),
            pb.ApplicationStatus(name="c", status="DELETING", config_json=json.dumps(section)),
        ],
    )

    text = deployed_text(status)

    found = checked(yaml.safe_load(text))
    assert [application.name for application in found.applications] == ["a"]
    assert found.applications[0].route_prefix is None
    http, _, grpc = found.cluster_options()
    assert http.location == "HeadOnly"
    assert (grpc.port, grpc.grpc_servicer_functions) == (9, ["pb.add"])
    assert "# Application 'b' was deployed by a script" in text
