"""The systemd unit of docs/operations.md."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from serving.cli.deploy import deploy

PAGE = (Path(__file__).parents[3] / "docs/operations.md").read_text()


def setting(key: str) -> str:
    (unit,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (value,) = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return str(value)


def test_systemd_unit_outlives_a_deploy_that_fails() -> None:
    assert re.fullmatch(r"-\S+/serving deploy \S+", setting("ExecStartPost"))


def test_systemd_unit_waits_longer_than_the_deploy_itself() -> None:
    deploy_s = inspect.signature(deploy).parameters["timeout_s"].default
    assert float(setting("TimeoutStartSec")) > deploy_s


def test_page_shows_commands_with_the_user_and_folder_of_the_unit() -> None:
    as_it = f"sudo -u {setting('User')} env {setting('Environment')}"
    command = setting("ExecStart").partition(" ")[0]
    assert f"$ {as_it} {command} status\n" in PAGE
