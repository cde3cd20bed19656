"""Processes of a cluster: where they come from, and that none stays."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import requests

import serving
from serving import api
from serving.config import ProxyLocation
from serving.exceptions import ClusterError, DeploymentFailedError
from serving.schema import ServeStatus
from tests.support.control import (
    command,
    descendants,
    get,
    isolate,
    own_cluster,
    read_until,
    replica_pids,
    script,
    still_running,
    until,
)
from tests.support.processes import processes

GONE_WITHIN_S = 2.0

SERVES = """
    import serving

    @serving.deployment
    def hello(request):
        return "hello"

    serving.run(hello.bind(){arguments})
    print("port", serving.status().http_port, flush=True)
    {then}
"""


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with own_cluster(monkeypatch, tmp_path):
        yield


@serving.deployment
def hello(request: object) -> str:
    return "hello"


def write(path: Path, *, then: str = "", arguments: str = "") -> Path:
    path.write_text(textwrap.dedent(SERVES).format(then=then, arguments=arguments))
    return path


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def named(name: str) -> psutil.Process:
    """The one process of the cluster below us that runs this module."""
    (found,) = [p for p in descendants(os.getpid()) if f"-m serving.{name}" in command(p)]
    return found


# The end


def test_script_that_ends_takes_its_cluster_along(tmp_path: Path) -> None:
    with script(write(tmp_path / "app.py")) as process:
        port = int(read_until(process, "port").split()[1])
        assert process.wait(20) == 0

    assert not listens(port)


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_script_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    path = write(tmp_path / "app.py", then="import signal; signal.pause()")
    with script(path) as process:
        port = int(read_until(process, "port").split()[1])
        started = descendants(process.pid)
        assert len(started) == 4
        process.send_signal(number)

        assert not still_running(started, within_s=GONE_WITHIN_S)
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()

    assert not listens(port)


@pytest.mark.alone
def test_script_that_is_killed_leaves_no_replica_that_is_stuck(tmp_path: Path) -> None:
    """A constructor that neither returns nor lets other threads run cannot hear the lifeline."""
    path = tmp_path / "app.py"
    path.write_text(
        textwrap.dedent("""
            import ctypes, threading, serving

            @serving.deployment
            class Stuck:
                def __init__(self):
                    print("stuck", flush=True)
                    ctypes.PyDLL(None).sleep(60)
                def __call__(self): ...

            serving.run(Stuck.bind())
        """)
    )
    with script(path) as process:
        read_until(process, "stuck")
        started = descendants(process.pid)
        process.kill()

        assert not still_running(started, within_s=GONE_WITHIN_S)


@pytest.mark.alone
def test_forked_child_does_not_keep_the_cluster_of_a_killed_script(tmp_path: Path) -> None:
    then = "import os, signal; os.fork() or signal.pause(); signal.pause()"
    with script(write(tmp_path / "app.py", then=then)) as process:
        read_until(process, "port")
        everyone = until(lambda: len(d := descendants(process.pid)) == 5 and d)
        started = [p for p in everyone if "-m serving." in command(p)]
        (forked,) = set(everyone) - set(started)
        try:
            process.kill()
            assert not still_running(started, within_s=GONE_WITHIN_S)
        finally:
            forked.kill()


def test_interrupt_ends_a_blocking_run_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    write(path, arguments=", blocking=True", then="print('after', flush=True)")
    with script(path) as process:
        read_until(process, "is ready at")
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)

        read_until(process, "port 0")
        assert process.wait(20) == 0

    assert not still_running(started)


@pytest.mark.parametrize("meanwhile", ["controller", "proxy", "replica"])
def test_interrupt_during_the_start_ends_everything_quietly(tmp_path: Path, meanwhile: str) -> None:
    path = write(tmp_path / "app.py", arguments=", blocking=True")
    with script(path) as process:

        def starting() -> list[psutil.Process]:
            return [
                each for each in descendants(process.pid) if f"serving.{meanwhile}" in command(each)
            ]

        until(starting)
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)

        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(20) == 0
    assert "Traceback" not in said
    assert "ERROR" not in said
    assert not still_running(started)


def test_start_that_takes_long_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(
        textwrap.dedent("""
            import threading, serving

            @serving.deployment
            class Slow:
                def __init__(self):
                    threading.Event().wait(60)
                def __call__(self): ...

            serving.run(Slow.bind())
        """)
    )
    with script(path) as process:
        told = read_until(process, "has been starting for")
        assert f"it is at {path}:7 in __init__" in told
        assert "default#Slow#" in told
        process.send_signal(signal.SIGTERM)


WAITS = """
    import asyncio, serving

    @serving.deployment
    async def waits(request):
        print("begun", flush=True)
        await asyncio.sleep(60)

    serving.run(waits.bind(), blocking={blocking})
    {then}
"""


@pytest.mark.alone
@pytest.mark.parametrize("blocking", [True, False])
def test_end_tells_what_it_waits_for_and_an_interrupt_ends_it_at_once(
    tmp_path: Path, blocking: bool
) -> None:
    path = tmp_path / "app.py"
    then = "" if blocking else "input()"
    path.write_text(textwrap.dedent(WAITS).format(blocking=blocking, then=then))
    with script(path, stdin=subprocess.PIPE) as process, ThreadPoolExecutor(1) as pool:
        url = read_until(process, "is ready at").split()[-1]
        started = descendants(process.pid)
        answer = pool.submit(requests.get, url, timeout=30)
        read_until(process, "begun")
        if blocking:
            process.send_signal(signal.SIGINT)
        else:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        read_until(process, "waiting up to 20 s for 1 open request")
        read_until(process, "Ending; press Ctrl-C to end at once")
        process.send_signal(signal.SIGINT)

        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait(10) == (130 if blocking else 0)
        assert isinstance(answer.exception(10), requests.RequestException)
    assert not still_running(started, within_s=GONE_WITHIN_S)
    assert "Traceback" not in rest
    assert "Unknown child process" not in rest


def test_idle_connection_does_not_delay_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "app.py", arguments=", blocking=True")
    with script(path) as process, requests.Session() as session:
        url = read_until(process, "is ready at").split()[-1]
        assert session.get(url, timeout=20).text == "hello"

        process.send_signal(signal.SIGINT)

        assert process.stdout is not None
        assert "waiting" not in process.stdout.read()
        assert process.wait(20) == 0


def test_run_in_a_module_that_a_replica_imports_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(
        "import serving\n\n@serving.deployment\ndef hello(request): ...\n\n"
        "serving.run(hello.bind())\n"
    )
    path = tmp_path / "app.py"
    path.write_text("import part\n")
    with script(path) as process:
        assert process.stdout is not None
        output = process.stdout.read()

        assert process.wait(20) == 1
    assert "serving.run() was called in a replica, maybe by a module that it imports" in output


def test_shutdown_ends_all_processes_and_removes_the_folder(cluster: None) -> None:
    serving.run(hello.bind())
    started = descendants(os.getpid())
    folder = Path(str(api._address()).removeprefix("unix:")).parent
    assert folder.stat().st_mode & 0o777 == 0o700

    serving.shutdown()

    assert not still_running(started)
    assert not folder.exists()
    assert serving.status().applications == {}
    serving.shutdown()


def test_shutdown_lets_requests_finish(cluster: None, tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"

    @serving.deployment
    def waits(request: object) -> str:
        begun.touch()
        until(go_on.exists)
        return "finished"

    serving.run(waits.bind())
    url = f"http://127.0.0.1:{serving.status().http_port}/"
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(requests.get, url, timeout=20)
        until(begun.exists)
        ending = pool.submit(serving.shutdown)
        until(lambda: refuses(url))
        go_on.touch()

        assert answer.result(20).text == "finished"
        ending.result(20)


def test_delete_tells_what_it_waits_for(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"

    @serving.deployment(graceful_shutdown_timeout_s=7)
    def waits(request: object) -> str:
        begun.touch()
        until(go_on.exists)
        return "finished"

    serving.run(waits.bind())
    url = f"http://127.0.0.1:{serving.status().http_port}/"
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(requests.get, url, timeout=20)
        until(begun.exists)
        deleting = pool.submit(serving.delete, "default")
        until(lambda: "waiting up to 7 s for 1 open request" in capsys.readouterr().err)
        go_on.touch()

        deleting.result(20)
        assert answer.result(20).text == "finished"


def refuses(url: str) -> bool:
    """Whether a new connection gets no answer any more."""
    try:
        requests.get(url + "-/healthz", timeout=1)
    except requests.RequestException:
        return True
    return False


@pytest.mark.alone
def test_supervisor_that_is_killed_takes_all_along(cluster: None) -> None:
    serving.run(hello.bind())
    started = descendants(os.getpid())

    named("supervisor").kill()

    assert not still_running(started, within_s=GONE_WITHIN_S)


# Failing to start


def test_port_in_use_is_told_with_its_holder_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as holder:
        port = holder.getsockname()[1]
        monkeypatch.setenv("SERVING_HTTP_PORT", str(port))

        with pytest.raises(ClusterError, match=rf"port {port} .* by process {os.getpid()} "):
            serving.run(hello.bind())

    assert not descendants(os.getpid())


def test_port_of_a_script_is_told_with_the_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(tmp_path / "app.py", then="input()")
    with script(path, stdin=subprocess.PIPE) as process:
        port = read_until(process, "port").split()[1]
        monkeypatch.setenv("SERVING_HTTP_PORT", port)

        with pytest.raises(
            ClusterError, match=rf" by process {process.pid} \(.*app\.py\); .*--http-port"
        ):
            serving.run(hello.bind())


def test_failed_constructor_leaves_no_cluster_that_run_started() -> None:
    @serving.deployment
    class Fails:
        def __init__(self) -> None:
            raise RuntimeError("no")

        def __call__(self) -> None: ...

    with pytest.raises(DeploymentFailedError):
        serving.run(Fails.bind())

    assert not descendants(os.getpid())


def test_wrong_application_starts_nothing() -> None:
    with pytest.raises(TypeError, match=r"'hello' is not bound: did you forget \.bind\(\)"):
        serving.run(hello)  # type: ignore[arg-type]

    assert not descendants(os.getpid())


def test_proxy_that_cannot_start_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    options = {"port": 0, "ssl_certfile": str(empty), "ssl_keyfile": str(empty)}

    with pytest.raises(ClusterError, match="proxy-0"):
        serving.start(http_options=options)

    assert not descendants(os.getpid())
    assert serving.status() == ServeStatus()


def test_address_of_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_ADDRESS", "unix:/nowhere/controller.sock")

    with pytest.raises(ClusterError, match="no cluster at unix:/nowhere"):
        serving.run(hello.bind())


# What a person sees


def test_terminal_shows_the_progress_of_a_deploy(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, write(tmp_path / "app.py")],
            stdout=subprocess.DEVNULL,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(slave)
        with process:
            shown = read_terminal(terminal)

    assert process.returncode == 0
    assert "Deploying default: hello has 0 of 1 replicas ready" in shown
    assert "Application 'default' is ready at http://127.0.0.1:" in shown


def read_terminal(terminal: IO[bytes]) -> str:
    """All that is written to it, until everyone has closed it."""
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody has it open any more
        while data := terminal.read(4096):
            shown += data
    return shown.decode()


# While it runs


def test_proxy_that_dies_comes_back_and_no_connection_is_refused(cluster: None) -> None:
    serving.run(hello.bind())
    dead = named("proxy")

    dead.kill()

    assert get().text == "hello"
    assert named("proxy").pid != dead.pid


@pytest.mark.alone
def test_proxy_that_is_told_to_end_hands_over_and_tells_kept_connections(cluster: None) -> None:
    serving.run(hello.bind())
    url = f"http://127.0.0.1:{serving.status().http_port}/"
    with requests.Session() as kept:
        assert "connection" not in kept.get(url, timeout=20).headers
        told = named("proxy")
        told.terminate()

        until(lambda: len(processes("serving.proxy")) == 2)
        assert get().text == "hello"
        assert still_running([told])
        answer = kept.get(url, timeout=20)
        assert (answer.text, answer.headers["connection"]) == ("hello", "close")
        assert not still_running([told], within_s=GONE_WITHIN_S)
        assert kept.get(url, timeout=20).text == "hello"
    assert named("proxy").pid != told.pid


def test_several_proxies_share_one_port() -> None:
    try:
        serving.start(http_options={"port": 0, "num_proxies": 3})
        serving.run(hello.bind())

        assert {get().text for _ in range(20)} == {"hello"}
        assert len(serving.status().proxies) == 3
    finally:
        serving.shutdown()


@pytest.mark.parametrize(
    "options",
    [
        {"http_options": {"location": "Disabled"}},
        {"http_options": {"location": "EveryNode"}, "proxy_location": ProxyLocation.Disabled},
    ],
    ids=["http option", "proxy_location"],
)
def test_no_proxy_where_http_is_disabled(options: dict[str, Any]) -> None:
    try:
        started = serving.start(**options)
        serving.run(hello.bind())

        assert started.http_port == 0
        assert serving.status().applications["default"].status == "RUNNING"
        assert not [p for p in descendants(os.getpid()) if "serving.proxy" in command(p)]
    finally:
        serving.shutdown()


def test_options_for_a_cluster_that_runs_are_ignored_with_a_warning(cluster: None) -> None:
    with pytest.warns(RuntimeWarning, match="runs already"):
        serving.start(http_options={"port": 0})


def test_proxy_location_that_is_none_is_named_and_nothing_starts() -> None:
    with pytest.raises(ValueError, match="'location'.*got 'Moon'"):
        serving.start(proxy_location="Moon")

    assert not descendants(os.getpid())


def test_interrupt_in_the_terminal_reaches_the_script_alone(cluster: None) -> None:
    serving.run(hello.bind())
    groups = {os.getpgid(process.pid) for process in descendants(os.getpid())}

    assert os.getpgid(0) not in groups
    assert replica_pids()


# The cluster that stays


def test_detached_cluster_outlives_the_scripts_that_use_it(tmp_path: Path) -> None:
    serving_command(tmp_path, "start")
    try:
        with script(write(tmp_path / "app.py")) as process:
            port = int(read_until(process, "port").split()[1])
            assert process.wait(20) == 0

        assert requests.get(f"http://127.0.0.1:{port}/", timeout=20).text == "hello"
        assert "default: RUNNING, /" in serving_command(tmp_path, "status")
        assert "is deleted" in serving_command(tmp_path, "delete", "default")
        empty = requests.get(f"http://127.0.0.1:{port}/", timeout=20)
        assert (empty.status_code, empty.headers["Retry-After"]) == (503, "1")
        assert empty.text == "Service Unavailable: no application is deployed yet"
        again = serving_command(tmp_path, "start", code=1)
        assert f"a cluster runs already, at http://127.0.0.1:{port}" in again
    finally:
        serving_command(tmp_path, "shutdown")
    assert not listens(port)
    for arguments in (["status"], ["delete", "default"]):
        assert "is private to that" in serving_command(tmp_path, *arguments, code=1)


def test_blocking_run_deletes_only_what_it_deployed(tmp_path: Path) -> None:
    first = write(tmp_path / "first.py", arguments=", blocking=True")
    second = tmp_path / "second.py"
    second.write_text(first.read_text().replace('return "hello"', 'return "other"'))
    url = serving_command(tmp_path, "start").split()[-1]
    try:
        with script(first) as one:
            read_until(one, "is ready at")
            with script(second) as other:
                read_until(other, "Replacing application 'default'")
                read_until(other, "is ready at")

                one.send_signal(signal.SIGINT)
                read_until(one, "is not the one deployed from here: it goes on")
                assert one.wait(20) == 0

                assert requests.get(url, timeout=20).text == "other"
                other.send_signal(signal.SIGINT)
                assert other.wait(20) == 0
                assert requests.get(url, timeout=20).status_code == 503
    finally:
        serving_command(tmp_path, "shutdown")


def serving_command(tmp_path: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout
