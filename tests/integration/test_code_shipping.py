"""Code that one process sends and another, fresh one loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fastapi_compat

ROOT = Path(__file__).parents[2]
EVERYTHING = Path(__file__).with_name("everything_script.py")

SHIP = """
from serving import code as _code
with open({file!r}, "wb") as _file:
    _file.write(_code.capture({name}).SerializeToString())
"""
LOAD = """
import asyncio, sys
from pathlib import Path
from serving import code
from serving.v1.controller_pb2 import Code
from tests.support.asgi import get, lifespan, request, websocket

async def served(cls, *args):
    return await cls.__serving_ingress__.build(cls(*args))

captured = Code.FromString(Path({file!r}).read_bytes())
assert captured.import_path == {import_path!r}, captured.import_path
loaded = code.load(captured)
"""


def python(*args: str, cwd: Path, text: str = "", seed: str = "0") -> str:
    """Runs Python in a folder and gives what it prints; fails with what it complains of."""
    result = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        input=text,
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def check_loaded(folder: Path, file: Path, check: str, import_path: str = "") -> None:
    """Loads in a fresh process that knows nothing of the sender, and runs `check` there."""
    program = LOAD.format(file=str(file), import_path=import_path) + check
    fresh = folder / "fresh"
    fresh.mkdir(exist_ok=True)
    python("-c", program, cwd=fresh)


def test_script_with_everything(tmp_path: Path) -> None:
    shipped = [tmp_path / "unused", tmp_path / "used"]
    python(str(EVERYTHING), str(shipped[0]), cwd=tmp_path)
    python(str(EVERYTHING), str(shipped[1]), "use", cwd=tmp_path)
    for file in shipped:
        check_loaded(tmp_path, file, CHECK_EVERYTHING)


CHECK_EVERYTHING = """
async def check_models(app):
    async def posted(path, body):
        response = await request(app, "POST", path, json=body)
        assert response.is_success, response.text
        return response.json()

    owner = await posted("/owner", {"pet": {"kind": "cat"}, "home": {"neighbours": [{}]}})
    assert owner == {
        "pet": {"kind": "cat", "lives": 9},
        "home": {"rooms": 4, "neighbours": [{"rooms": 4, "neighbours": []}]},
        "loud": "CAT",
    }
    for bad in ({"pet": {"kind": "cow"}}, {"pet": {"kind": "dog"}, "home": {"rooms": 0}}):
        assert (await request(app, "POST", "/owner", json=bad)).status_code == 422
    cats = {"items": [{"kind": "cat", "lives": 1}]}
    assert await posted("/page", cats) == cats
    body = {
        "plain": {"number": 1, "inner": {"kind": "dog"}},
        "checked": {"number": 2},
        "partial": {"inner": {"kind": "cat"}},
    }
    assert await posted("/dataclasses", body) == list(body.values())
    body["checked"]["number"] = 0
    assert (await request(app, "POST", "/dataclasses", json=body)).status_code == 422
    assert await posted("/names", ["a"]) == ["a"]

async def check_requests(app):
    plain = {"number": 1, "inner": None}
    words = ["any", "are", "in", "order", "these"]
    assert await get(app, "/library?user=3") == [
        [3, "right"], ["int", "object"], 12, [plain], words
    ]
    for count in (1, 2):
        headers = {"x-request-id": "id", "x-name": "me"}
        response = await request(app, "GET", "/outer/inner/counted?q=2", headers=headers)
        assert response.json() == [72, count, None, "me", "id", "extra"], response.text
    names = ("x-route", "x-stamp", "x-tag")
    assert [response.headers[name] for name in names] == ["counted", "stamped", "tag"]
    assert await get(app, "/state") == [True, "extra", "/outer/inner/counted"]
    assert await get(app, "/kinds/cat?tags=a") == {"kind": "cat", "tags": ["a"]}
    assert (await request(app, "GET", "/kinds/cat?tags=gone")).json() == {"gone": "cat"}
    statuses = [(await request(app, "GET", f"/kinds/{end}")).status_code
                for end in ("cat?tags=teapot", "cow", "cat?tags=1&tags=2&tags=3")]
    assert statuses == [418, 422, 422]
    assert (await request(app, "GET", "/stream")).text == "012345"
    assert await get(app, "/sub/plain") == "sub"
    assert (await request(app, "GET", "/starlette")).text == "extra"
    assert await websocket(app, "/ws", "m") == ["m60"]
    assert await websocket(app, "/free") == ["10"]

async def check():
    app = await served(loaded, 6)
    assert app is loaded.state.__globals__["app"]
    assert type(app).__name__ == "App"
    async with lifespan(app):
        await check_models(app)
        await check_requests(app)
    text = (await request(app, "GET", "/openapi.json")).text
    assert '"self"' not in text and '"Cat"' in text
    assert (await request(app, "GET", "/docs")).status_code == 200

asyncio.run(check())
"""

HELLO = """
from fastapi import FastAPI
from pydantic import BaseModel
from serving.ingress import ingress
app = FastAPI()
greeting = "hello"

class Answer(BaseModel):
    text: str

@ingress(app)
class Hello:
    @app.get("/")
    def root(self) -> Answer:
        return Answer(text=greeting)
"""
CHECK_HELLO = """
async def check():
    assert await get(await served(loaded), "/") == {"text": "hello"}
asyncio.run(check())
"""


@pytest.mark.parametrize("how", ["stdin", "module"])
def test_main_that_is_no_script_goes_by_value(tmp_path: Path, how: str) -> None:
    file = tmp_path / "shipped"
    source = HELLO + SHIP.format(file=str(file), name="Hello")
    if how == "stdin":
        python("-", cwd=tmp_path, text=source)
    else:
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "app.py").write_text(source)
        python("-m", "package.app", cwd=tmp_path)
    check_loaded(tmp_path, file, CHECK_HELLO)


def test_notebook_whose_cells_ran_again(tmp_path: Path) -> None:
    """Each cell is compiled by itself into a `__main__` without a file; that of the class ran, was
    changed, failed, and was changed and ran again."""
    file = tmp_path / "shipped"
    head, _, body = HELLO.partition("\nclass Answer")
    body = "class Answer" + body
    cells = [
        head + "\n",
        body.replace("greeting)", "'old')"),
        body.replace("greeting)", "'wrong')") + "    raise OSError\n",
        body,
        SHIP.format(file=str(file), name="Hello"),
    ]
    notebook = f"""
import code, sys, types
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
interpreter = code.InteractiveInterpreter(vars(main))
for number, cell in enumerate({cells!r}):
    interpreter.runcode(compile(cell, f"<cell {{number}}>", "exec"))
"""
    python("-c", notebook, cwd=tmp_path)
    check_loaded(tmp_path, file, CHECK_HELLO)


def test_module_beside_the_script_goes_by_reference(tmp_path: Path) -> None:
    """Also where the module is found only through the working folder or a change of `sys.path`."""
    file = tmp_path / "shipped"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "hello_lib.py").write_text(HELLO)
    (tmp_path / "beside.py").write_text("from hello_lib import Hello\n")
    ship = SHIP.format(file=str(file), name="Hello")
    program = "import sys; sys.path.append('lib')\nfrom beside import Hello\n" + ship
    python("-c", program, cwd=tmp_path)
    check_loaded(tmp_path, file, CHECK_HELLO, import_path="hello_lib:Hello")


def test_script_that_uses_the_module_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "shipped"
    (tmp_path / "beside.py").write_text(
        "import threading\nlock = threading.Lock()\ndef make():\n    return lambda: lock\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import beside\nfrom beside import lock, make\nmade = make()\n"
        "class Local:\n    def get(self): return beside.lock is made() is not lock\n"
        + SHIP.format(file=str(file), name="Local")
    )
    python(str(script), cwd=Path("/"))
    check_loaded(tmp_path, file, "import beside\nassert loaded().get()\nassert beside.lock")


def test_arguments_and_code_share_their_classes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    args = tmp_path / "args"
    script.write_text(
        HELLO
        + "class Model:\n    def __init__(self, answer): assert type(answer) is Answer\n"
        + SHIP.format(file=str(tmp_path / "shipped"), name="Model")
        + f"open({str(args)!r}, 'wb').write(_code.dumps(((Answer(text='x'), Hello), {{}})))\n"
    )
    python(str(script), cwd=tmp_path)
    check = (
        f"(answer, hello), _ = code.loads(Path({str(args)!r}).read_bytes())\n"
        "loaded(answer)\n" + CHECK_HELLO.replace("loaded", "hello")
    )
    check_loaded(tmp_path, tmp_path / "shipped", check)


def test_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    source = EVERYTHING.read_text() + "\nprint(code.fingerprint([code.capture(Everything)]))\n"
    script.write_text(source)
    prints = [python(str(script), "/dev/null", cwd=tmp_path, seed=seed) for seed in ("1", "2")]
    script.write_text(source.replace("self.number * 2", "self.number * 3"))
    prints.append(python(str(script), "/dev/null", cwd=tmp_path, seed="1"))
    assert prints[0] == prints[1] != prints[2]
