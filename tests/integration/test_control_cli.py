"""The `serving run` command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import requests

from serving.cli.exit_codes import ExitCode
from tests.support.control import descendants, ended, isolate, read_until, still_running, until
from tests.support.load import Load, loads

APP = """
import serving
import helper

@serving.deployment
def hello(request):
    return helper.text()

app = hello.bind()
"""


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An application whose answer comes from a module two imports deep."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / "helper.py").write_text("from texts import TEXT\ndef text(): return TEXT\n")
    (folder / "texts.py").write_text("TEXT = 'one'\n")
    return folder


@contextmanager
def serving_run(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.cli", "run", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process, ended(process):
        yield process


def url_of(process: subprocess.Popen[str]) -> str:
    return read_until(process, "is ready at").split()[-1]


def test_run_serves_until_interrupted(folder: Path) -> None:
    with serving_run(folder, "app:app", "--route-prefix", "/hi") as process:
        url = url_of(process)
        assert url.endswith("/hi")
        assert requests.get(url, timeout=20).text == "one"
        started = descendants(process.pid)

        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 0
    assert not still_running(started)


@pytest.mark.alone
def test_run_that_is_killed_leaves_nothing(folder: Path) -> None:
    with serving_run(folder, "app:app", "--reload") as process:
        url_of(process)
        started = descendants(process.pid)

        process.kill()

        assert not still_running(started, within_s=2.0)


def test_run_takes_the_folder_and_the_port(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["app:app", "--app-dir", str(folder), "--port", str(port)]
    with serving_run(tmp_path, *arguments) as process:
        assert url_of(process) == f"http://127.0.0.1:{port}/"


def test_reload_serves_what_changed_without_a_failed_request(folder: Path) -> None:
    """Nor does a mistake cost one."""
    command("start", "--no-access-log")
    try:
        with serving_run(folder, "app:app", "--reload") as process:
            read_until(process, "is ready at")
            requests = [Load(method=method) for method in ("GET", "POST", "GET")]
            with loads(*requests):
                until(lambda: all(load.answers["200 one"] for load in requests))
                (folder / "texts.py").write_text("TEXT = 'two'\n")
                until(lambda: all(load.answers["200 two"] for load in requests))
                (folder / "texts.py").write_text("TEXT = (\n")
                read_until(process, "SyntaxError")
                (folder / "texts.py").write_text("TEXT = 'three'\n")
                until(lambda: all(load.answers["200 three"] for load in requests))
    finally:
        command("shutdown")
    answers = sum((load.answers for load in requests), Counter[str]())
    assert answers.keys() == {"200 one", "200 two", "200 three"}


def test_reload_picks_up_what_only_the_handler_imports(folder: Path) -> None:
    (folder / "helper.py").write_text("def text():\n    import texts\n    return texts.TEXT\n")
    with serving_run(folder, "app:app", "--reload") as process:
        url = url_of(process)
        assert requests.get(url, timeout=20).text == "one"

        (folder / "texts.py").write_text("TEXT = 'two'\n")
        read_until(process, "is ready at")

        assert requests.get(url, timeout=20).text == "two"


def test_reload_prints_a_mistake_and_keeps_the_old_version(folder: Path) -> None:
    with serving_run(folder, "app:app", "--reload") as process:
        url = url_of(process)

        (folder / "texts.py").write_text("TEXT = (\n")
        read_until(process, "SyntaxError")
        assert requests.get(url, timeout=20).text == "one"

        app = (folder / "app.py").read_text()
        large = "@serving.deployment(ray_actor_options={'num_gpus': 99})"
        (folder / "texts.py").write_text("TEXT = 'two'\n")
        (folder / "app.py").write_text(app.replace("@serving.deployment", large))
        read_until(process, "deployment 'hello' asks for more than any machine has")
        assert requests.get(url, timeout=20).text == "one"

        (folder / "app.py").write_text(app)
        (folder / "texts.py").write_text("TEXT = 'three'\n")
        read_until(process, "is ready at")
        assert requests.get(url, timeout=20).text == "three"


@pytest.mark.alone  # an end that takes long is told in a line
@pytest.mark.parametrize(
    ("import_path", "message"),
    [
        ("app", "'app' is not of the form module:app; did you mean 'app:app'?"),
        ("sub/app.py", "'sub/app.py' is not of the form module:app; did you mean 'sub.app:app'?"),
        ("app.py:app", "'app.py:app' is not of the form module:app; did you mean 'app:app'?"),
        ("runs:app", "module 'runs' calls serving.run() when it is imported: make the application"),
        ("nothing:app", "no module 'nothing' in "),
        ("app:ap", "module 'app' has no attribute 'ap'; did you mean 'app'?"),
        ("app:xyz", "module 'app' has no attribute 'xyz'; applications in it: app"),
        ("app:hello", "deployment 'hello' is not bound: did you forget .bind()?"),
        ("helper:text", "'helper:text' returned no application but 'str': did you forget"),
        ("texts:TEXT", "'texts:TEXT' is no application but 'str': did you forget"),
    ],
)
def test_wrong_import_path_is_one_line(folder: Path, import_path: str, message: str) -> None:
    (folder / "runs.py").write_text("from app import app, serving\nserving.run(app)\n")
    with serving_run(folder, import_path) as process:
        is_malformed = "is not of the form" in message
        expected = ExitCode.USAGE if is_malformed else ExitCode.DEPLOY_FAILED
        assert process.wait(30) == expected
        assert process.stdout is not None
        output = process.stdout.read()

    assert message in output
    assert len(output.splitlines()) == 1


def test_version_is_told() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "serving.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == f"serving {version('serving')}\n"


def test_exception_in_the_module_is_shown_with_the_users_frames(folder: Path) -> None:
    (folder / "texts.py").write_text("import missing_library\n")
    with serving_run(folder, "app:app") as process:
        assert process.wait(30) == ExitCode.DEPLOY_FAILED
        assert process.stdout is not None
        output = process.stdout.read()

    assert "ModuleNotFoundError: No module named 'missing_library'" in output
    assert str(folder / "texts.py") in output
    assert os.path.join("serving", "cli") not in output


def test_failed_constructor_is_shown_and_the_exit_code_says_so(folder: Path) -> None:
    (folder / "app.py").write_text(
        "import serving\n\n@serving.deployment\nclass Fails:\n"
        "    def __init__(self): raise RuntimeError('no model')\n"
        "    def __call__(self): ...\n\napp = Fails.bind()\n"
    )
    with serving_run(folder, "app:app") as process:
        started = descendants(process.pid)
        assert process.wait(30) == ExitCode.DEPLOY_FAILED
        assert process.stdout is not None
        assert "RuntimeError: no model" in process.stdout.read()
    assert not still_running(started)


def test_second_run_into_a_cluster_replaces_with_a_word_and_deletes_its_own(folder: Path) -> None:
    url = command("start").split()[-1]
    try:
        with serving_run(folder, "app:app") as first:
            read_until(first, "is ready at")
            with serving_run(folder, "app:app", "--route-prefix", "/x") as second:
                read_until(second, "Replacing application 'default'")
                read_until(second, "is ready at")

                first.send_signal(signal.SIGINT)
                read_until(first, "is not the one deployed from here: it goes on")
                assert first.wait(20) == 0
                assert requests.get(f"{url}x", timeout=20).text == "one"

                second.send_signal(signal.SIGINT)
                assert second.wait(20) == 0
                assert requests.get(f"{url}x", timeout=20).status_code == 503
    finally:
        command("shutdown")


def test_run_of_what_runs_already_leaves_it(folder: Path) -> None:
    url = command("start").split()[-1]
    try:
        with serving_run(folder, "app:app") as first:
            read_until(first, "is ready at")
            with serving_run(folder, "app:app") as second:
                read_until(second, "runs already, unchanged: it stays as it is")
                read_until(second, "is ready at")
                second.send_signal(signal.SIGINT)
                assert second.wait(20) == 0
            assert requests.get(url, timeout=20).text == "one"
    finally:
        command("shutdown")


def command(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "serving.cli", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_port_in_use_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with serving_run(folder, "app:app", "--port", str(port)) as process:
            assert process.wait(30) == 1
            assert process.stdout is not None
            assert f"port {port} on 127.0.0.1 is in use by process {os.getpid()}" in (
                process.stdout.read()
            )
