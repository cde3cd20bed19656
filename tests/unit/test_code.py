import concurrent.futures
import contextvars
import dataclasses
import functools
import os
import queue
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import Any, NewType

import pytest
from fastapi import FastAPI
from starlette.datastructures import State

from serving import code
from serving.exceptions import CodeNotPortableError
from serving.v1.controller_pb2 import Code

pytestmark = pytest.mark.fastapi_compat

registry: list[str] = []
Uid = NewType("Uid", int)


class Sentinel:
    pass


UNSET = Sentinel()


def make_adder() -> Any:
    def add(name: str) -> None:
        registry.append(name)

    return add


def copied(value: Any) -> Any:
    return code.loads(code.dumps(value))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a module of the given source importable, and forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, source: str) -> Any:
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return __import__(name)

    names: list[str] = []
    yield make
    for name in names:
        sys.modules.pop(name, None)


def test_importable_code_goes_by_reference(module: Any) -> None:
    users = module("users_code", "class Outer:\n    class Inner: pass\ndef function(): pass\n")
    for obj, path in [
        (users.Outer.Inner, "users_code:Outer.Inner"),
        (users.function, "users_code:function"),
        (dataclasses.dataclass, "dataclasses:dataclass"),
    ]:
        captured = code.capture(obj)
        assert (captured.import_path, captured.pickled) == (path, b"")
        assert code.load(captured) is obj


def test_deployment_in_a_module_goes_by_reference(module: Any) -> None:
    users = module(
        "users_deployment",
        "import serving as serve\n@serve.deployment\nclass Model:\n    pass\n",
    )
    for obj in (users.Model, users.Model.func_or_class):
        captured = code.capture(obj)
        assert captured.import_path == "users_deployment:Model"
        assert code.load(captured) is users.Model.func_or_class
    assert copied([users.Model.func_or_class]) == [users.Model.func_or_class]


@pytest.mark.parametrize(
    "obj",
    [
        lambda: 1,
        make_adder(),
        functools.partial(max, 1),
        type("Local", (), {"__module__": "__main__"}),
        types.FunctionType((lambda: 1).__code__, {"__name__": "no_such_module"}),
    ],
    ids=["lambda", "closure", "partial", "main", "no module"],
)
def test_what_cannot_be_imported_goes_by_value(obj: Any) -> None:
    captured = code.capture(obj)
    assert captured.import_path == ""
    assert type(code.load(captured)) is type(obj)


def test_module_made_by_hand_goes_by_value() -> None:
    made = types.ModuleType("made_by_hand")
    exec("N = 3\ndef three(): return N\n", vars(made))
    sys.modules["made_by_hand"] = made
    try:
        captured = code.capture(made.three)
        both = code.dumps((made, made.three))
    finally:
        del sys.modules["made_by_hand"]
    assert captured.import_path == ""
    assert code.load(captured)() == 3
    loaded, three = code.loads(both)
    assert (loaded.N, three()) == (3, 3)


def test_attribute_that_is_another_object_goes_by_value(module: Any) -> None:
    users = module("users_replaced", "def function(): return 1\nold, function = function, None\n")
    captured = code.capture(users.old)
    assert captured.import_path == ""
    assert code.load(captured)() == 1


def test_closure_keeps_the_namespace_of_its_module() -> None:
    registry.clear()
    copied(make_adder())("added")
    assert registry == ["added"]


def test_functions_sent_together_share_their_globals() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "n = 0\ndef count():\n global n\n n += 1\n return n\ndef read() -> 'helper': return n\n"
        "def helper(): pass\n",
        namespace,
    )
    count, read = copied([namespace["count"], namespace["read"]])
    count()
    assert (read(), namespace["n"]) == (1, 0)
    assert callable(read.__globals__["helper"])  # only a string annotation names it


def test_load_puts_the_paths_of_the_sender_first(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = code.capture(dataclasses.dataclass)
    assert list(captured.sys_path) == [os.path.abspath(entry) for entry in sys.path]
    monkeypatch.setattr(sys, "path", ["", "/a", "/b"])
    assert list(code.capture(dataclasses.dataclass).sys_path) == [os.getcwd(), "/a", "/b"]
    captured = Code(import_path="dataclasses:dataclass", sys_path=["/a", "/b"])
    monkeypatch.setattr(sys, "path", ["/own", "/b"])
    code.load(captured)
    code.load(captured)
    assert sys.path == ["/a", "/b", "/own"]


def test_reference_that_is_gone_names_module_and_attribute() -> None:
    with pytest.raises(ImportError, match="module 'dataclasses' has no 'no.thing'"):
        code.load(Code(import_path="dataclasses:no.thing"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        code.load(Code(import_path="no_such_module:x"))


def test_what_belongs_to_a_process_arrives_as_new() -> None:
    lock, condition, variable = threading.Lock(), threading.Condition(), contextvars.ContextVar
    with lock, condition:
        sent = {
            "lock": lock,
            "same": lock,
            "condition": condition,
            "event": threading.Event(),
            "queue": queue.Queue[int](3),
            "simple": queue.SimpleQueue[int](),
            "local": threading.local(),
            "default": variable("a", default=5),
            "none": variable("b"),
        }
        got = copied(sent)
    assert got["lock"].acquire(blocking=False)
    assert got["same"] is got["lock"]
    with got["condition"]:
        got["condition"].notify_all()
    got["queue"].put_nowait(1)
    assert got["queue"].maxsize == 3
    assert (got["default"].get(), got["none"].name) == (5, "b")


def test_common_library_objects_survive() -> None:
    key = Sentinel()

    @functools.lru_cache(maxsize=7)
    def cached(x: int) -> int:
        return x + 1

    @functools.singledispatch
    def show(x: object) -> str:
        return "object"

    show.register(int, lambda x: "int")
    state = State({"a": 1})
    got_state, got_cached, got_show, weak, got_key = copied(
        (state, cached, show, weakref.WeakKeyDictionary({key: 1}), key)
    )
    assert got_state.a == 1
    assert (got_cached(1), got_cached.cache_parameters()["maxsize"]) == (2, 7)
    assert (got_show(1), got_show("")) == ("int", "object")
    assert weak[got_key] == 1
    assert copied([Uid, UNSET, dataclasses.MISSING]) == [Uid, UNSET, dataclasses.MISSING]


def test_app_survives_with_its_locks_and_state() -> None:
    app = FastAPI(title="copied")
    app.state.lock = threading.Lock()

    @app.get("/")
    def root() -> bool:
        return bool(app.state.lock.locked())

    got = copied(root)
    got_app = (
        got.__globals__["app"] if "app" in got.__globals__ else got.__closure__[0].cell_contents
    )
    assert (got_app.title, got()) == ("copied", False)
    assert got_app is not app
    assert any(route.endpoint is got for route in got_app.routes if route.path == "/")


def test_class_that_comes_twice_stays_as_it_is() -> None:
    """So what code and arguments bring is one class, and its methods are those that routes hold."""

    class Local:
        def method(self) -> int:
            return 1

    before = Local.method
    instance = copied(Local())
    assert type(instance) is Local
    assert Local.method is before


class _Broken:
    def __reduce__(self) -> Any:
        raise ValueError("no way")


def _running_thread() -> threading.Thread:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return thread


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((n for n in "ab"), "generator"),
        (_Broken(), r"_Broken.*ValueError: no way"),
        (_running_thread(), "threading.Thread"),
        (concurrent.futures.Future[int](), r"concurrent\.futures\._base\.Future"),
    ],
    ids=["generator", "reduce", "thread", "future"],
)
def test_what_cannot_be_sent_is_named_with_its_place(value: Any, kind: str) -> None:
    class Model:
        def predict(self) -> Any:
            return value

        settings = {"names": ["x", value]}

    with pytest.raises(CodeNotPortableError, match=kind) as caught:
        code.capture(Model)
    message = str(caught.value)
    assert "Model cannot be sent to a replica: " in message
    assert "Model.settings['names'][1] is a " in message or "(closure variable 'value')" in message
    assert "in __init__, or move the code into a module that can be imported" in message


def test_code_that_travels_by_value_keeps_the_name_of_its_file() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def fail(): raise ValueError", "<cell 7>", "exec"), namespace)

    assert copied(namespace["fail"]).__code__.co_filename == "<cell 7>"


def test_argument_that_cannot_be_sent_is_named_with_its_place() -> None:
    with pytest.raises(CodeNotPortableError, match=r"tuple\[1\]\['stream'\] is a generator"):
        code.dumps(((1, 2), {"stream": (n for n in "ab")}))


def test_nesting_without_end_is_an_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(CodeNotPortableError, match="nested too deeply"):
        code.dumps(nested)
    while nested:  # one level at a time, since freeing it all at once overflows the stack
        nested = nested[0]


def test_fingerprint_tells_codes_apart() -> None:
    one, two = code.capture(lambda: 1), code.capture(lambda: 2)
    assert code.fingerprint([one]) == code.fingerprint([one])
    assert code.fingerprint([one]) != code.fingerprint([two])
    assert code.fingerprint([one, two]) != code.fingerprint([two, one])
    by_reference = code.capture(dataclasses.dataclass)
    assert code.fingerprint([by_reference]) != code.fingerprint([one])


def test_fingerprint_covers_modules_that_are_imported_by_modules(
    module: Any, tmp_path: Path
) -> None:
    module("users_deep", "X = 1\n")
    module("users_middle", "import users_deep\n")
    top = module("users_top", "import users_middle\ndef function(): pass\n")
    captured = code.capture(top.function)
    before = code.fingerprint([captured])
    (tmp_path / "users_deep.py").write_text("X = 2\n")
    assert code.fingerprint([captured]) != before
