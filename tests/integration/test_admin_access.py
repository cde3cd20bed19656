"""Where the REST API listens, and whom it lets in."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import serving
from serving import api
from tests.support.admin import ask
from tests.support.control import DEADLINE_S, isolate, until
from tests.support.processes import processes


@serving.deployment
async def hello(request: object) -> str:
    return "hello"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """For a cluster of the test's own."""
    isolate(monkeypatch, tmp_path)
    try:
        yield tmp_path
    finally:
        serving.shutdown()


def test_token_is_required_beyond_loopback(folder: Path) -> None:
    port = serving.start(admin_options={"host": "0.0.0.0"}).admin_url.rpartition(":")[2]
    url = f"http://127.0.0.1:{port}"
    address = api._address()
    assert address is not None
    until(lambda: ask(url).status_code == 401)
    file = Path(address.removeprefix("unix:")).parent / "admin.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = {"Authorization": f"Bearer {file.read_text()}"}

    assert ask(url, headers=shown).status_code == 200
    assert ask(url, headers=shown | {"Host": "service.example"}).status_code == 200
    assert ask(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert ask(url, "DELETE").status_code == 401
    assert ask(url, "DELETE", headers=shown | {"Origin": "http://evil"}).status_code == 403
    assert ask(url, path="/docs").status_code == 401


def test_token_of_the_environment_is_required_on_loopback_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_ADMIN_TOKEN", "secret")
    url = serving.start(admin_options={}).admin_url

    assert ask(url).status_code == 401
    assert ask(url, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_port_in_use_is_told_and_the_cluster_serves_on(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert serving.start(admin_options={"port": port}).admin_url == ""

    serving.run(hello.bind())
    answer = requests.get(serving.status().url, timeout=DEADLINE_S)

    assert answer.text == "hello"
    assert f"no REST API: port {port} on 127.0.0.1 is in use by process {os.getpid()}" in (
        capfd.readouterr().err
    )


def test_cluster_of_a_script_has_no_api_unless_asked(folder: Path) -> None:
    assert serving.start().admin_url == ""
    assert not processes("serving.admin")
