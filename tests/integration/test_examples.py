"""Runs each example, and the README's, as its own text says, and asks it something."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
SERVING = Path(sys.executable).parent / "serving"
STOP_DEADLINE_S = 20


@contextlib.contextmanager
def running(
    *command: str | Path, cwd: Path, state_dir: Path
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve with a command that an example names; stop it as its user would, with Ctrl-C."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "SERVING_HTTP_PORT": "0", "SERVING_STATE_DIR": str(state_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield address_of(process), process
        process.send_signal(signal.SIGINT)
        process.wait(STOP_DEADLINE_S)
    finally:
        process.kill()
        sys.stdout.write(process.communicate()[0])  # for whoever reads why the test failed


def running_example(
    name: str, state_dir: Path
) -> contextlib.AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    return running(SERVING, "run", "app:app", cwd=EXAMPLES / name, state_dir=state_dir)


def address_of(process: subprocess.Popen[str]) -> str:
    """The host and port that the command says it serves on, once it does: of HTTP, or of gRPC
    where there is no HTTP."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if ready := re.search(r"is ready(?: at http://([^/]+)/|, gRPC at (\S+))", line):
            return ready[1] or ready[2]
    pytest.fail(f"the example ended: {printed}")


def test_quickstart_greets(tmp_path: Path) -> None:
    with running_example("quickstart", tmp_path) as (address, _):
        answer = requests.get(f"http://{address}/?name=Ada", timeout=10)

    assert answer.json() == {"message": "Hello, Ada!"}


def test_demo_shows_a_request_and_its_answer(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, EXAMPLES / "quickstart" / "demo.py"],
        env={**os.environ, "SERVING_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "GET http://127.0.0.1:" in shown.stdout
    assert '{"message":"Hello, Ada!"}' in shown.stdout


def test_fastapi_app_scores_and_validates(tmp_path: Path) -> None:
    with running_example("fastapi_app", tmp_path) as (address, _):
        url = f"http://{address}"
        good = requests.post(f"{url}/score", json={"text": "a great, great day"}, timeout=10)
        empty = requests.post(f"{url}/score", json={"text": ""}, timeout=10)
        words = requests.get(f"{url}/words?at_least=0", timeout=10)
        unknown = requests.get(f"{url}/words/fine", timeout=10)
        documentation = requests.get(f"{url}/docs", timeout=10)

    assert good.json() == {"score": 1.0, "words": ["great", "great"]}
    assert empty.status_code == 422
    assert words.json() == ["good", "great"]
    assert (unknown.status_code, documentation.status_code) == (404, 200)


def test_streaming_sends_words_as_they_come_and_notices_who_leaves(tmp_path: Path) -> None:
    with running_example("streaming", tmp_path) as (address, process):
        with requests.get(f"http://{address}/?words=4", stream=True, timeout=10) as answer:
            words = [line for line in answer.iter_lines(decode_unicode=True) if line]
        with requests.get(f"http://{address}/?words=1000", stream=True, timeout=10) as answer:
            next(answer.iter_lines())
        assert process.stdout is not None
        left = any("The listener left." in line for line in process.stdout)

    assert words == ['data: "Once"', 'data: "upon"', 'data: "a"', 'data: "time"']
    assert left


def test_websocket_chat_passes_on_what_members_say(tmp_path: Path) -> None:
    with running_example("websocket_chat", tmp_path) as (address, _):
        page = requests.get(f"http://{address}/", timeout=10)
        with connect(f"ws://{address}/room/Ada") as ada:
            heard = [ada.recv(5)]
            with connect(f"ws://{address}/room/Bob") as bob:
                heard.append(ada.recv(5))
                bob.recv(5)
                bob.send("hello")
                heard.append(ada.recv(5))
            heard.append(ada.recv(5))

    assert "new WebSocket" in page.text
    assert heard == ["Ada came in", "Bob came in", "Bob: hello", "Bob left"]


def test_text_pipeline_reads_a_text(tmp_path: Path) -> None:
    text = "The tea was great. The tea pot is dull. We drank tea and talked of tea."
    with running_example("text_pipeline", tmp_path) as (address, _):
        url = f"http://{address}/analyse"
        analysis = requests.post(url, json={"text": text, "sentences": 2}, timeout=10)
        empty = requests.post(url, json={"text": ""}, timeout=10)

    assert analysis.json() == {
        "sentiment": 0.25,
        "keywords": ["tea", "great", "pot", "dull", "drank"],
        "summary": ["The tea was great.", "The tea pot is dull."],
    }
    assert empty.status_code == 422


def test_token_streaming_sends_tokens_and_stops_the_model_with_its_client(tmp_path: Path) -> None:
    with running_example("token_streaming", tmp_path) as (address, process):
        url = f"http://{address}/events?prompt=Once"
        with requests.get(f"{url}&tokens=3", stream=True, timeout=10) as answer:
            events = [line for line in answer.iter_lines(decode_unicode=True) if line]
        with connect(f"ws://{address}/chat") as socket:
            socket.send("Once")
            told = [json.loads(socket.recv(5))["token"] for _ in range(3)]
            socket.send("A client")  # cuts the first story short
            stopped = [said_by(process, "Nobody listens any more")]
            while "done" not in json.loads(socket.recv(5)):
                pass
            socket.send("Once")
            socket.recv(5)
        stopped.append(said_by(process, "Nobody listens any more"))
        with requests.get(f"{url}&tokens=900", stream=True, timeout=10) as answer:
            next(answer.iter_lines())
        stopped.append(said_by(process, "Nobody listens any more"))

    assert events[:3] == [f'data: {{"token": "{token}"}}' for token in told]
    assert events[3:] == ["event: done", "data: {}"]
    assert [line.split()[-1] for line in stopped] == ["50.", "50.", "900."]


def test_grpc_answers_the_four_kinds_of_call(tmp_path: Path) -> None:
    folder = tmp_path / "grpc"
    shutil.copytree(EXAMPLES / "grpc", folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("9000", "0"))
    (protoc,) = re.findall(r"^ +python (-m grpc_tools.*)$", (folder / "app.py").read_text(), re.M)
    subprocess.run([sys.executable, *protoc.split()], cwd=folder, check=True, timeout=20)

    with running(SERVING, "run", "config.yaml", cwd=folder, state_dir=tmp_path) as (address, _):
        called = subprocess.run(
            [sys.executable, "client.py", address],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
        )

    assert called.stdout.splitlines() == [
        "Rate: 1.0",
        "Words: awful -1.0",
        "Words: dull -0.5",
        "RateAll: -0.17",
        "RateEach: 1.0",
        "RateEach: -0.75",
        "RateEach: 0.0",
        "Rate: INVALID_ARGUMENT, the text is empty",
    ], called.stderr


def test_numpy_batching_answers_many_with_few_batches(tmp_path: Path) -> None:
    points = {0: (-0.498, 0.598), 1: (-0.28, -0.726), 2: (0.751, 0.203)}
    with (
        running_example("numpy_batching", tmp_path) as (address, _),
        ThreadPoolExecutor(60) as many,
    ):

        def arm(number: int) -> dict[str, Any]:
            x, y = points[number % 3]
            answer = requests.get(f"http://{address}/arm", params={"x": x, "y": y}, timeout=10)
            found: dict[str, Any] = answer.json()
            return found

        answers = list(many.map(arm, range(300)))
        outside = requests.get(f"http://{address}/arm?x=2&y=0", timeout=10)

    assert [answer["arm"] for answer in answers] == [0, 1, 2] * 100
    assert min(answer["confidence"] for answer in answers) > 0.9
    assert max(answer["batch"] for answer in answers) > 1
    assert outside.status_code == 422


def said_by(process: subprocess.Popen[str], text: str) -> str:
    """The next line that the example prints with this text in it."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def test_readme_serves_from_the_command_line_and_from_a_script(tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    hello, script = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "hello.py").write_text(hello)
    (tmp_path / "script.py").write_text(script)
    commands: list[list[str | Path]] = [
        [SERVING, "run", "hello:app"],
        [sys.executable, "script.py"],
    ]

    for command in commands:
        with running(*command, cwd=tmp_path, state_dir=tmp_path) as (address, _):
            answer = requests.get(f"http://{address}/?name=Ada", timeout=10)

        assert answer.text in readme.splitlines()
