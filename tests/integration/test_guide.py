"""What the first user guide teaches about HTTP, each as a script that a user would run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = """
import asyncio, socket, time
import requests
import serving as serve

def base(scheme="http"):
    return f"{scheme}://127.0.0.1:{serve.status().http_port}"
"""

REQUEST_AS_ARGUMENT = """
from starlette.requests import Request

@serve.deployment
class Echo:
    def __call__(self, request: Request):
        return request.query_params

serve.run(Echo.bind())
print(requests.get(base() + "?city=Oslo&zip=0150").json())
"""

OWN_RESPONSE = """
from starlette.responses import PlainTextResponse

@serve.deployment
def brew(request):
    return PlainTextResponse("no coffee", status_code=418, headers={"X-Pot": "tea"})

serve.run(brew.bind(), route_prefix="/kitchen/brew")
answer = requests.get(base() + "/kitchen/brew")
print(answer.status_code, answer.headers["x-pot"], answer.text)
print(requests.get(base() + "/").status_code)
"""

CANCELLED_HANDLER = """
@serve.deployment
async def patient():
    try:
        print("working")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("tidied up")
        raise

serve.run(patient.bind())
try:
    requests.get(base(), timeout=0.5)
except requests.Timeout:
    print("gave up")
"""

TIMED_OUT_HANDLER = """
@serve.deployment
class Slow:
    async def __call__(self):
        try:
            await asyncio.Event().wait()
        finally:
            print("stopped")

serve.start(http_options={"port": 0, "request_timeout_s": 0.3})
serve.run(Slow.bind())
print(requests.get(base()).status_code)
"""

SHIELDED_WORK = """
@serve.deployment
class Bookkeeper:
    async def write(self):
        await asyncio.sleep(0.5)
        print("the books are closed")

    async def __call__(self):
        try:
            await asyncio.shield(self.write())
        except asyncio.CancelledError:
            print("the visitor has left")
            raise

serve.run(Bookkeeper.bind())
try:
    requests.get(base(), timeout=0.2)
except requests.Timeout:
    time.sleep(1)
"""

FASTAPI_METHODS = """
from fastapi import FastAPI

app = FastAPI()

@serve.deployment
@serve.ingress(app)
class Library:
    def __init__(self, name):
        self.name = name

    @app.get("/")
    def index(self):
        return self.name

    @app.put("/{shelf}")
    def index(self, shelf: int, title: str):
        return {shelf: title}

serve.run(Library.bind("Alexandria"), route_prefix="/library")
print(requests.get(base() + "/library").json())
print(requests.put(base() + "/library/7?title=Elements").json())
print(requests.put(base() + "/library/seven?title=Elements").status_code)
print(requests.get(base() + "/library/docs").status_code)
"""

EXISTING_APP = """
from fastapi import FastAPI

app = FastAPI()

@app.get("/")
async def index():
    return "as before"

@app.middleware("http")
async def stamp(request, call_next):
    response = await call_next(request)
    response.headers["x-stamp"] = "kept"
    return response

@serve.deployment
@serve.ingress(app)
class Wrapper:
    pass

serve.run(Wrapper.bind(), route_prefix="/")
answer = requests.get(base() + "/")
print(answer.json(), answer.headers["x-stamp"])
"""

WEBSOCKET = """
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.sync.client import connect

app = FastAPI()

@serve.deployment
@serve.ingress(app)
class Parrot:
    @app.websocket("/")
    async def talk(self, socket: WebSocket):
        await socket.accept()
        try:
            while True:
                await socket.send_text((await socket.receive_text()).upper())
        except WebSocketDisconnect as left:
            print("left with", left.code)

serve.run(Parrot.bind())
with connect(base("ws")) as parrot:
    for word in ("hello", "again"):
        parrot.send(word)
        print(parrot.recv())
"""

STREAM = """
import threading
from starlette.requests import Request
from starlette.responses import StreamingResponse

@serve.deployment
class Countdown:
    def __init__(self):
        self.goes_on = threading.Event()

    def numbers(self, start):
        for number in range(start, 0, -1):
            yield f"{number} "
            assert self.goes_on.wait(10)

    def __call__(self, request: Request):
        if request.url.path == "/go-on":
            return self.goes_on.set()
        start = int(request.query_params["start"])
        return StreamingResponse(self.numbers(start), media_type="text/plain")

serve.run(Countdown.bind())
with requests.get(base() + "/?start=3", stream=True) as answer:
    chunks = answer.iter_content(chunk_size=None, decode_unicode=True)
    print("first:", next(chunks))
    requests.get(base() + "/go-on")
    print("rest:", "".join(chunks))
"""

ENDLESS_STREAM = """
from starlette.responses import StreamingResponse

@serve.deployment
class Clock:
    async def ticks(self):
        try:
            while True:
                yield "tick "
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            print("nobody listens")
            raise

    def __call__(self):
        return StreamingResponse(self.ticks(), media_type="text/plain")

serve.run(Clock.bind())
with requests.get(base(), stream=True) as answer:
    for count, tick in enumerate(answer.iter_content(chunk_size=None)):
        if count == 5:
            break
"""

ADAPTER = """
from fastapi import Query
from serving.http_adapters import json_request

def celsius(fahrenheit: float = Query(ge=-460)):
    return (fahrenheit - 32) / 1.8

@serve.deployment(http_adapter=celsius)
def feels(degrees: float):
    return "warm" if degrees > 20 else "cold"

@serve.deployment(http_adapter=json_request)
class Length:
    def __call__(self, value):
        return len(value)

serve.run(feels.bind(), name="feels", route_prefix="/feels")
serve.run(Length.bind(), name="length", route_prefix="/length")
print(requests.get(base() + "/feels?fahrenheit=86").text)
print(requests.get(base() + "/feels?fahrenheit=-500").status_code)
print(requests.post(base() + "/length", json=[1, 2, 3]).json())
"""

KEEP_ALIVE = """
serve.start(http_options={"port": 0, "keep_alive_timeout_s": 0.3})
with socket.create_connection(("127.0.0.1", serve.status().http_port), 10) as idle:
    idle.sendall(b"GET /-/healthz HTTP/1.1\\r\\nhost: me\\r\\n\\r\\n")
    print(idle.recv(1000).endswith(b"success"))
    print("closed with", idle.recv(1000))
"""


@pytest.mark.parametrize(
    ("script", "output"),
    [
        pytest.param(
            REQUEST_AS_ARGUMENT, ["{'city': 'Oslo', 'zip': '0150'}"], id="request-as-argument"
        ),
        pytest.param(OWN_RESPONSE, ["418 tea no coffee", "404"], id="own-response-and-prefix"),
        pytest.param(
            CANCELLED_HANDLER, ["working", "gave up", "tidied up"], id="cancelled-handler"
        ),
        pytest.param(TIMED_OUT_HANDLER, ["408", "stopped"], id="timed-out-handler"),
        pytest.param(
            SHIELDED_WORK, ["the visitor has left", "the books are closed"], id="shielded-work"
        ),
        pytest.param(
            FASTAPI_METHODS, ["Alexandria", "{'7': 'Elements'}", "422", "200"], id="fastapi-methods"
        ),
        pytest.param(EXISTING_APP, ["as before kept"], id="existing-app"),
        pytest.param(WEBSOCKET, ["HELLO", "AGAIN", "left with 1000"], id="websocket"),
        pytest.param(STREAM, ["first: 3 ", "rest: 2 1 "], id="stream"),
        pytest.param(ENDLESS_STREAM, ["nobody listens"], id="endless-stream"),
        pytest.param(ADAPTER, ["warm", "422", "3"], id="adapter"),
        pytest.param(KEEP_ALIVE, ["True", "closed with b''"], id="keep-alive"),
    ],
)
def test_script_does_what_the_guide_says(script: str, output: list[str], tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(PREAMBLE + script)
    finished = subprocess.run(
        [sys.executable, file],
        env={**os.environ, "SERVING_HTTP_PORT": "0", "SERVING_STATE_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    # Processes write on their own: only what each of them says has an order.
    assert sorted(finished.stdout.splitlines()) == sorted(output), finished.stderr
    assert "Traceback" not in finished.stderr
