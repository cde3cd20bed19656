"""A controller that is killed, its store, and what goes on meanwhile."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import serving
from serving import api
from serving.controller.__main__ import STORE_FILE
from serving.exceptions import ClusterError
from tests.support.control import (
    DEADLINE_S,
    command,
    descendants,
    get,
    isolate,
    own_cluster,
    replica_pids,
    still_running,
    until,
)
from tests.support.load import Load, loads
from tests.support.processes import processes

ROLLED_OUT_WITHIN_S = 2.0
SOAK_S = float(os.environ.get("SERVING_SOAK_S", "180"))
KILLED_EVERY_S = 3.0
COMMAND = Path(sys.executable).parent / "serving"


@serving.deployment(num_replicas=2)
class Versioned:
    def __init__(self, version: str, folder: str = "") -> None:
        self.version = version
        if folder:
            (Path(folder) / f"{version}-{os.getpid()}").touch()

    async def __call__(self, request: object) -> str:
        return self.version


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with own_cluster(monkeypatch, tmp_path):
        yield


def the_controller() -> psutil.Process:
    (controller,) = until(lambda: processes("serving.controller"))
    return controller


def kill_the_controller() -> None:
    """Kills it and waits for the next one."""
    killed = the_controller().pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: the_controller().pid != killed)


def state_dir() -> Path:
    """Of the cluster that this script started."""
    address = api._address()
    assert address is not None
    return Path(address.removeprefix("unix:")).parent


def test_killed_controller_costs_no_request_and_the_next_one_adopts_what_runs(
    cluster: None, tmp_path: Path
) -> None:
    serving.run(Versioned.bind("one", str(tmp_path)))
    replicas = replica_pids()

    with Load().running() as load:
        for _ in range(3):
            kill_the_controller()
            until(lambda: serving.status().applications["default"].status == "RUNNING")
        assert replica_pids() == replicas

        serving.run(Versioned.bind("two", str(tmp_path)))
        updated_at = sum(load.answers.values())
        until(lambda: sum(load.answers.values()) > updated_at + 5)
    assert load.answers.keys() == {"200 one", "200 two"}
    assert get().text == "two"
    until(lambda: len(replica_pids()) == 2)
    started = Counter(path.name.split("-")[0] for path in tmp_path.glob("*-*"))
    assert started == {"one": 2, "two": 2}


@pytest.mark.alone
def test_deploy_after_a_kill_reaches_every_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with own_cluster(monkeypatch, tmp_path, autostart=False):
        serving.start(http_options={"num_proxies": 2})
        serving.run(Versioned.bind("one"))
        controller = the_controller()
        controller.kill()
        serving.run(Versioned.bind("two"))
        began = time.monotonic()

        # Each on a connection of its own: the kernel gives them to one proxy or the other.
        until(lambda: {get().text for _ in range(20)} == {"two"}, within_s=ROLLED_OUT_WITHIN_S)
        assert time.monotonic() - began < ROLLED_OUT_WITHIN_S


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 60)
def test_controller_killed_every_3_s_costs_no_request_and_starts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with own_cluster(monkeypatch, tmp_path, autostart=False):
        serving.start(http_options={"num_proxies": 2})
        serving.run(Versioned.bind("one", str(tmp_path)))
        replicas = replica_pids()
        requests = [Load(method=method) for method in ("GET", "POST") for _ in range(2)]
        with loads(*requests):
            ends_at = time.monotonic() + SOAK_S
            while (now := time.monotonic()) < ends_at:
                kill_the_controller()
                assert replica_pids() == replicas
                time.sleep(max(0.0, now + KILLED_EVERY_S - time.monotonic()))
            serving.run(Versioned.bind("two", str(tmp_path)))
            until(lambda: {get().text for _ in range(20)} == {"two"}, within_s=ROLLED_OUT_WITHIN_S)
            until(lambda: all(load.answers["200 two"] for load in requests))
        assert sum((load.answers for load in requests), Counter[str]()).keys() == {
            "200 one",
            "200 two",
        }
        until(lambda: len(replica_pids()) == 2)
        assert not replica_pids() & replicas
        started = Counter(path.name.split("-")[0] for path in tmp_path.glob("*-*"))
        assert started == {"one": 2, "two": 2}
        below = [command(process) for process in descendants(os.getpid())]
        kinds = Counter(re.findall(r"-m (serving\.\w+)", "\n".join(below)))
        assert kinds == {
            "serving.supervisor": 1,
            "serving.controller": 1,
            "serving.proxy": 2,
            "serving.replica": 2,
        }


def test_run_whose_controller_is_killed_meanwhile_returns_when_it_serves(cluster: None) -> None:
    serving.run(Versioned.bind("one"))
    killed: list[int] = []

    def kill_once_it_starts() -> None:
        until(lambda: len(replica_pids()) > 2)
        killed.append(the_controller().pid)
        the_controller().kill()

    killer = threading.Thread(target=kill_once_it_starts)
    killer.start()
    serving.run(Versioned.bind("two"))
    killer.join()

    assert killed
    assert get().text == "two"


def test_replica_that_dies_while_the_controller_is_away_is_replaced(cluster: None) -> None:
    serving.run(Versioned.options(num_replicas=1).bind("one"))
    (replica,) = replica_pids()
    controller = the_controller()
    controller.send_signal(signal.SIGSTOP)
    os.kill(replica, signal.SIGKILL)
    controller.kill()

    assert get().text == "one"
    assert replica not in until(replica_pids)


def test_delete_goes_on_after_a_kill(cluster: None) -> None:
    serving.run(Versioned.bind("one"))
    controller = the_controller()
    killer = threading.Timer(0.05, controller.kill)
    killer.start()
    serving.delete("default")
    killer.join()

    until(lambda: not replica_pids())
    until(lambda: not serving.status().applications)


def test_store_that_cannot_be_read_is_told_and_what_runs_serves_on(cluster: None) -> None:
    serving.run(Versioned.bind("one"))
    store = state_dir() / STORE_FILE
    files = [store, store.with_name(f"{STORE_FILE}-wal")]  # which alone may hold all that there is
    with Load().running() as load:
        controller = the_controller()
        controller.send_signal(signal.SIGSTOP)
        damaged = b"not a database" * 1000
        good = [file.read_bytes() for file in files]
        for file in files:
            file.write_bytes(damaged)
        controller.kill()

        until(lambda: len(processes("serving.controller")) == 0)
        answered = sum(load.answers.values())
        until(lambda: sum(load.answers.values()) > answered + 20)
        assert store.read_bytes() == damaged

        for file, content in zip(files, good, strict=True):
            file.write_bytes(content)
        until(lambda: serving.status().applications["default"].status == "RUNNING")
    assert load.answers.keys() == {"200 one"}


def test_record_that_cannot_be_read_fails_its_application_and_the_other_serves_on(
    cluster: None,
) -> None:
    serving.run(Versioned.bind("one"))
    serving.run(Versioned.bind("two"), name="damaged", route_prefix="/damaged")
    with Load().running() as load:
        (supervisor,) = processes("serving.supervisor")
        supervisor.suspend()  # it starts no controller meanwhile
        try:
            controller = the_controller()
            controller.kill()
            assert not still_running([controller], within_s=DEADLINE_S)
            with contextlib.closing(sqlite3.connect(state_dir() / STORE_FILE)) as db, db:
                db.execute("UPDATE versions SET spec = x'ff' WHERE application = 'damaged'")
        finally:
            supervisor.resume()

        until(lambda: serving.status().applications["default"].status == "RUNNING")
        damaged = serving.status().applications["damaged"]
        assert damaged.status == "DEPLOY_FAILED"
        assert "cannot be read" in damaged.message
        answered = sum(load.answers.values())
        until(lambda: sum(load.answers.values()) > answered + 20)

        serving.run(Versioned.bind("three"), name="damaged", route_prefix="/damaged")
        assert get("/damaged").text == "three"
    assert load.answers.keys() == {"200 one"}


def test_second_controller_on_one_folder_is_refused_and_nothing_is_lost(cluster: None) -> None:
    serving.run(Versioned.bind("one"))
    folder = state_dir()
    settings = {"address": f"unix:{folder}/second.sock", "state_dir": str(folder)}
    second = subprocess.run(
        [sys.executable, "-P", "-m", "serving.controller"],
        env={**os.environ, "SERVING_CONTROLLER_CONFIG": json.dumps(settings)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert second.returncode == 1
    assert f"in use by another controller, process {the_controller().pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert get().text == "one"


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "within_s"),
    [(signal.SIGKILL, 2.0), (signal.SIGTERM, DEADLINE_S)],
    ids=["killed", "told to end"],
)
def test_cluster_that_ended_comes_back_with_its_applications(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals, within_s: float
) -> None:
    """With their code as it was deployed, too."""
    isolate(monkeypatch, tmp_path)
    file = tmp_path / "from_a_file.py"
    file.write_text("import serving\n@serving.deployment\ndef told():\n    return 'deployed'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "from_a_file", raising=False)
    from_a_file = importlib.import_module("from_a_file")
    with started_by_command():
        serving.run(Versioned.options(num_replicas=1).bind("one"))
        serving.run(from_a_file.told.bind(), name="file", route_prefix="/file")
        serving.run(from_a_file.told.bind(), name="gone", route_prefix="/gone")
        serving.delete("gone")
        file.write_text("edited (")
        supervisor = json.loads((tmp_path / "state" / "cluster.json").read_text())["pid"]
        everyone = [psutil.Process(supervisor), *descendants(supervisor)]

        os.kill(supervisor, number)

        assert not still_running(everyone, within_s=within_s)
        with pytest.raises(ClusterError):
            serving.delete("default")
        start_by_command()
        assert get().text == "one"  # it waits for the first replica
        until(lambda: serving.status().applications["default"].status == "RUNNING")
        assert get("/file").text == "deployed"
        assert serving.status().applications.keys() == {"default", "file"}


def test_cluster_that_was_shut_down_starts_with_no_application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    with started_by_command():
        serving.run(Versioned.options(num_replicas=1).bind("one"))

    with started_by_command():
        assert not serving.status().applications


@contextlib.contextmanager
def started_by_command() -> Iterator[None]:
    start_by_command()
    try:
        yield
    finally:
        subprocess.run([COMMAND, "shutdown"], check=True, timeout=DEADLINE_S)


def start_by_command() -> None:
    subprocess.run([COMMAND, "start", "--port", "0"], check=True, timeout=DEADLINE_S)
