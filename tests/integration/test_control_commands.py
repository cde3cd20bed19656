"""The commands about a cluster that stays: start, status, logs, stacks, delete, shutdown."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

import serving
from serving.schema import ServeStatus
from tests.support.control import DEADLINE_S, ended, isolate, read_until, until


@serving.deployment(num_replicas=2)
class Talker:
    def __call__(self, request: object) -> str:
        logging.getLogger("serving.talker").info("talked")
        return "talked"


@serving.deployment(name="Talker")
def Greeter(request: object) -> str:
    return "hello"


@serving.deployment
class Waiter:
    def __call__(self, request: object) -> str:
        return self.wait_for_ever()

    def wait_for_ever(self) -> str:
        threading.Event().wait(DEADLINE_S)
        return "done"


@serving.deployment
class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no model")

    def __call__(self, request: object) -> None: ...


def serving_command(*arguments: str, expected: int = 0) -> str:
    """Runs a command to its end; gives all that it says."""
    finished = subprocess.run(
        [sys.executable, "-m", "serving.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert finished.returncode == expected, finished.stdout
    return finished.stdout


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.cli", *arguments], stdout=subprocess.PIPE, text=True
    )
    with process, ended(process):
        yield process


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a cluster that `serving start` started, with an application of two replicas."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("commands"))
        started = serving_command("start")
        try:
            assert "REST API: http://127.0.0.1:" in started
            serving.run(Talker.bind(), name="talk", route_prefix="/talk")
            yield started.split()[-1]
        finally:
            serving_command("shutdown")


def status() -> ServeStatus:
    return serving.status()


def test_started_cluster_answers_and_is_not_started_twice(url: str) -> None:
    assert requests.get(f"{url}talk", timeout=DEADLINE_S).text == "talked"
    assert "a cluster runs already" in serving_command("start", expected=1)


def test_status_tells_replicas_and_decisions(url: str) -> None:
    text = serving_command("status")

    assert "talk: RUNNING, /talk" in text
    assert "Talker: HEALTHY, 2 RUNNING" in text
    assert "start 2 replicas of version" in text
    for replica in status().applications["talk"].deployments["Talker"].replicas:
        assert f"replica {replica.replica_id}: RUNNING, process {replica.pid}" in text


def test_status_as_json_has_rays_shape_and_more(url: str) -> None:
    found = json.loads(serving_command("status", "--json"))

    assert found["proxies"] == {"proxy-0": "HEALTHY"}
    assert found["target_capacity"] is None
    deployment = found["applications"]["talk"]["deployments"]["Talker"]
    assert (deployment["status"], deployment["status_trigger"], deployment["replica_states"]) == (
        "HEALTHY",
        "CONFIG_UPDATE_COMPLETED",
        {"RUNNING": 2},
    )
    assert {replica["state"] for replica in deployment["replicas"]} == {"RUNNING"}


def test_failure_stays_in_the_status_once_it_is_repaired(url: str) -> None:
    """A replica that was lost is replaced at once: who asks later is to know why."""
    deployment = status().applications["talk"].deployments["Talker"]
    lost = deployment.replicas[0]
    os.kill(lost.pid, signal.SIGKILL)

    def repaired() -> bool:
        now = status().applications["talk"].deployments["Talker"]
        return now.status == "HEALTHY" and lost not in now.replicas

    until(repaired)
    failure = status().applications["talk"].deployments["Talker"].last_failures[-1]
    assert failure.replica_id == lost.replica_id
    assert failure.error == "the process ended with signal 9 while it served"
    assert f"{lost.replica_id} failed: the process ended" in serving_command("status")


def test_failed_start_is_told_with_its_trigger(url: str) -> None:
    with pytest.raises(serving.exceptions.DeploymentFailedError):
        serving.run(Broken.bind(), name="broken", route_prefix="/broken")

    broken = status().applications["broken"].deployments["Broken"]

    assert (broken.status, broken.status_trigger) == ("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED")
    assert [failure.error.splitlines()[0] for failure in broken.last_failures] == [
        "RuntimeError: no model"
    ] * 3
    serving.delete("broken")


def test_watched_status_is_told_again_when_it_changes(url: str) -> None:
    with running("status", "--watch", "--json") as watching:
        assert "watched" not in json.loads(read_until(watching, "{"))["applications"]

        serving.run(Talker.bind(), name="watched", route_prefix="/watched")

        read_until(watching, '"watched": {"status": "RUNNING"')
        serving.delete("watched")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(DEADLINE_S) == 0


def test_logs_are_told_by_application_and_by_replica(url: str) -> None:
    for _ in range(20):
        requests.get(f"{url}talk", timeout=DEADLINE_S)
    replicas = status().applications["talk"].deployments["Talker"].replicas
    one, other = (replica.replica_id for replica in replicas)
    until(lambda: all(f" {each} " in serving_command("logs") for each in (one, other)))

    of_one = serving_command("logs", "--replica", one.rpartition("#")[2]).splitlines()

    assert of_one
    assert all(one in line for line in of_one)
    of_application = serving_command("logs", "--app", "talk")
    assert one in of_application
    assert other in of_application
    until(lambda: "/talk GET /talk 200" in serving_command("logs", "--app", "talk"))
    for option, known in (("--app", "talk"), ("--replica", f"{one}, {other}")):
        said = serving_command("logs", option, "nothing", expected=1)
        assert said.startswith(f"serving: no {'application' if option == '--app' else 'replica'} ")
        assert "'nothing' runs, nor is it in the log; there are: " in said
        assert known in said
    assert len(serving_command("logs", "--app", "talk", "--tail", "3").splitlines()) == 3


def test_followed_log_tells_what_comes(url: str) -> None:
    with running("logs", "--follow", "--app", "talk", "--tail", "0") as following:
        marked = {"X-Request-ID": "followed"}
        told = threading.Event()

        def ask() -> None:
            while not told.wait(0.05):
                requests.get(f"{url}talk", headers=marked, timeout=DEADLINE_S)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            read_until(following, "request_id=followed")
        finally:
            told.set()
            asking.join()
        following.send_signal(signal.SIGINT)
        assert following.wait(DEADLINE_S) == 0


def test_stacks_tell_what_a_replica_does_now(url: str) -> None:
    serving.run(Waiter.bind(), name="wait", route_prefix="/wait")
    (replica,) = status().applications["wait"].deployments["Waiter"].replicas
    asked = threading.Thread(
        target=lambda: requests.post(f"{url}wait", timeout=DEADLINE_S), daemon=True
    )
    asked.start()
    try:
        until(lambda: "in wait_for_ever" in serving_command("stacks", "wait"))

        token = replica.replica_id.rpartition("#")[2]
        text = serving_command("stacks", "--replica", token)
        assert text.startswith(f"=== {replica.replica_id}, process {replica.pid}\n")
        assert text.count("=== ") == 1
        assert sys.prefix not in text
        assert sys.base_prefix not in text
        assert re.search(r"^idle: .* beside them \(--all shows them\)$", text, re.MULTILINE)
        assert "grpc" in serving_command("stacks", "--all", "--replica", token)
        assert "=== talk#Talker#" in serving_command("stacks")
        message = serving_command("stacks", "wait", "--replica", "nothing", expected=1)
        assert f"no replica 'nothing' of application 'wait'; there are: {replica.replica_id}" in (
            message
        )
    finally:
        os.kill(replica.pid, signal.SIGKILL)
        asked.join()
        serving.delete("wait")


def test_application_is_rolled_back(url: str) -> None:
    serving.run(Talker.bind(), name="old", route_prefix="/old")
    serving.run(Greeter.bind(), name="old", route_prefix="/old")
    assert requests.get(f"{url}old", timeout=DEADLINE_S).text == "hello"

    assert "Application 'old' is what it was before" in serving_command("rollback", "old")

    assert requests.get(f"{url}old", timeout=DEADLINE_S).text == "talked"
    assert "no application 'nothing'" in serving_command("rollback", "nothing", expected=1)
    message = serving_command("rollback", "talk", expected=1)
    assert message.startswith("serving: ")
    assert len(message.splitlines()) == 1
    serving.delete("old")


def test_application_that_is_not_there_cannot_be_deleted(url: str) -> None:
    message = serving_command("delete", "nothing", expected=1)

    assert message == "serving: no application 'nothing'; there are: talk\n"


def test_wrong_option_is_a_usage_error(url: str) -> None:
    message = serving_command("start", "--proxies", "0", expected=2)

    assert message.startswith("serving: HTTP: option 'num_proxies': ")


def test_commands_without_a_cluster_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)

    for command in (["status"], ["stacks"], ["delete", "x"]):
        assert "no cluster runs" in serving_command(*command, expected=1)
    assert "no log" in serving_command("logs", expected=1)
    assert serving_command("shutdown") == "No cluster runs\n"


def test_start_that_cannot_be_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)

    said = serving_command("start", "--http-host", "http://x", expected=1)
    assert said.startswith("serving: cannot listen on 'http://x', which is no address and no name ")
    assert len(said.splitlines()) == 1

    (tmp_path / "file").touch()
    monkeypatch.setenv("SERVING_STATE_DIR", str(tmp_path / "file" / "state"))
    said = serving_command("start", expected=1)
    assert said == (
        f"serving: {tmp_path}/file/state cannot be written: Not a directory; SERVING_STATE_DIR "
        "names the folder of the cluster\n"
    )


def test_start_with_the_admin_port_taken_warns_and_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        text = serving_command("start", "--admin-port", str(port))
    try:
        assert f"serving: no REST API: port {port} on 127.0.0.1 is in use by process" in text
        assert serving.status().proxies == {"proxy-0": "HEALTHY"}
        assert serving_command("logs").count("no REST API") == 1
    finally:
        serving_command("shutdown")


def test_start_in_the_foreground_tells_its_manager_and_ends_with_its_signal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    arguments = ["--block", "--no-admin", "--logs-dir", str(tmp_path / "logs")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with running("start", *arguments) as process:
            assert manager.recv(100) == b"READY=1"
            serving.run(Talker.bind())
            assert serving.status().admin_url == ""
            assert requests.get(serving.status().url, timeout=DEADLINE_S).text == "talked"
            until(lambda: "talked" in serving_command("logs", "--app", "default"))

            process.send_signal(signal.SIGTERM)

            assert process.wait(DEADLINE_S) == 0
