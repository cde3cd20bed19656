"""What is found in the code of an application that is imported."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.code import name_of
from serving.configfile.validation import checked
from serving.configfile.writing import built_text
from serving.importer import answer
from serving.v1 import controller_pb2 as pb

NUMBERS = itertools.count()

Importing = Callable[..., tuple[dict[str, Any], pb.ApplicationSpec]]


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Importing:
    """Imports an application whose deployment has these options in its code."""

    def found(options: str, **section: Any) -> tuple[dict[str, Any], pb.ApplicationSpec]:
        module = f"imported_{next(NUMBERS)}"
        code = f"import serving\n@serving.deployment({options})\ndef Hello(request): ...\n"
        (tmp_path / f"{module}.py").write_text(f"{code}app = Hello.bind()\n")
        monkeypatch.setattr(sys, "path", list(sys.path))
        application = {"name": "a", "route_prefix": "/", "import_path": f"{module}:app"} | section
        said, spec = answer({"application": application, "folders": [str(tmp_path)], "salt": ""})
        sys.modules.pop(module)
        return json.loads(json.dumps(said, default=name_of)), pb.ApplicationSpec.FromString(spec)

    return found


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ("num_replicas=2", {"num_replicas": 2}),
        ("num_replicas='auto'", {"num_replicas": "auto"}),
        ("num_replicas=None", {}),
        (
            "max_ongoing_requests=3, num_replicas='auto'",
            {"max_ongoing_requests": 3, "num_replicas": "auto"},
        ),
        ("autoscaling_config={'max_replicas': 4}", {"autoscaling_config": {"max_replicas": 4}}),
        ("autoscaling_config=None", {}),
        ("user_config=None", {}),
    ],
)
def test_options_of_the_code_are_those_that_a_config_can_give_again(
    importing: Importing, options: str, given: dict[str, Any]
) -> None:
    found, spec = importing(options)
    assert "error" not in found

    section = {"name": "a", "route_prefix": "/", "import_path": "app:app"}
    config = yaml.safe_load(built_text([(section, found["given"])]))

    (deployment,) = config["applications"][0]["deployments"]
    assert deployment == {"name": "Hello", **given}
    checked(config)
    again, spec_again = importing("", deployments=[deployment])
    assert "error" not in again
    assert spec_again.deployments[0].options == spec.deployments[0].options


def test_auto_of_the_code_with_limits_is_built_as_it_scales(importing: Importing) -> None:
    found, spec = importing("num_replicas='auto', autoscaling_config={'min_replicas': 0}")

    given = found["given"]["Hello"]
    assert given["num_replicas"] == "auto"
    assert given["autoscaling_config"]["min_replicas"] == 0
    again, spec_again = importing("", deployments=[{"name": "Hello", **given}])
    assert spec_again.deployments[0].options == spec.deployments[0].options
