# Annotations are not postponed here: FastAPI could not see the names that are local to a test.
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, cast

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    WebSocket,
)
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from serving.ingress import ingress
from tests.support.asgi import get, lifespan, request, websocket

pytestmark = pytest.mark.fastapi_compat


class Item(BaseModel):
    name: str
    price: float = 1.0


async def served(instance: Any) -> Any:
    """What a replica does with an instance of an ingress class."""
    return await instance.__serving_ingress__.build(instance)


async def test_methods_are_routes_with_parameters() -> None:
    app = FastAPI()

    @ingress(app)
    class Shop:
        def __init__(self) -> None:
            self.tax = 2

        @app.get("/price/{amount}")
        def price(self, amount: int, times: int = 1) -> int:
            return amount * times * self.tax

        @app.post("/items", status_code=201, response_model_exclude={"price"})
        async def add(self, item: Item) -> Item:
            return item

    assert await served(Shop()) is app
    assert await get(app, "/price/3?times=2") == 12
    assert (await request(app, "GET", "/price/x")).status_code == 422
    created = await request(app, "POST", "/items", json={"name": "tea"})
    assert (created.status_code, created.json()) == (201, {"name": "tea"})
    assert (await request(app, "POST", "/items", json={})).status_code == 422


async def test_class_stays_an_ordinary_class() -> None:
    app = FastAPI()

    class Plain:
        @app.get("/")
        def root(self) -> str:
            return "called"

    assert ingress(app)(Plain) is Plain
    assert "__serving_ingress__" in vars(Plain)
    await served(Plain())
    assert Plain().root() == "called"


async def test_sync_methods_run_in_threads_and_async_ones_in_the_loop() -> None:
    app = FastAPI()

    @ingress(app)
    class Where:
        @app.get("/sync")
        def sync(self) -> int:
            return threading.get_ident()

        @app.get("/async")
        async def asynchronous(self) -> int:
            return threading.get_ident()

    await served(Where())
    assert await get(app, "/sync") != threading.get_ident()
    assert await get(app, "/async") == threading.get_ident()


async def test_two_methods_of_one_name_are_both_served() -> None:
    app = FastAPI()

    @ingress(app)
    class Twice:
        @app.get("/")
        def root(self) -> str:
            return "plain"

        @app.get("/{sub}")  # type: ignore[no-redef]
        def root(self, sub: str) -> str:  # noqa: F811
            return sub

    await served(Twice())
    assert [await get(app, "/"), await get(app, "/x")] == ["plain", "x"]


@pytest.mark.parametrize("included_first", [True, False])
async def test_routers_nested_in_routers(included_first: bool) -> None:
    app, outer, inner = FastAPI(), APIRouter(prefix="/outer"), APIRouter()

    def include() -> None:
        outer.include_router(inner, prefix="/inner")
        app.include_router(outer, prefix="/v1")
        app.include_router(outer, prefix="/v2")

    class Nested:
        word = "deep"

        @inner.get("/word")
        def get_word(self) -> str:
            return self.word

        @inner.websocket("/ws")
        async def ws(self, ws: WebSocket) -> None:
            await ws.accept()
            await ws.send_text(self.word)

    if included_first:
        include()
        ingress(app)(Nested)
    else:
        ingress(app)(Nested)
        include()
    app.openapi()  # computed and kept while the methods are still functions
    await served(Nested())
    for version in ("/v1", "/v2"):
        assert await get(app, f"{version}/outer/inner/word") == "deep"
        assert await websocket(app, f"{version}/outer/inner/ws") == ["deep"]
    assert '"self"' not in (await request(app, "GET", "/openapi.json")).text


async def test_mounted_apps_have_methods_too() -> None:
    app, sub = FastAPI(), FastAPI()
    plain = Starlette()
    app.mount("/sub", sub)
    app.mount("/zipped", GZipMiddleware(plain))

    @ingress(app)
    class Mounts:
        word = "mounted"

        @sub.get("/word")
        def get_word(self) -> str:
            return self.word

        def page(self, request: Request) -> Response:
            return PlainTextResponse(self.word)

    plain.router.routes.append(Route("/page", Mounts.page))
    await served(Mounts())
    assert await get(app, "/sub/word") == "mounted"
    assert '"self"' not in (await request(app, "GET", "/sub/openapi.json")).text
    assert (await request(app, "GET", "/zipped/page")).text == "mounted"


async def test_websocket_methods() -> None:
    app = FastAPI()

    @ingress(app)
    class Echo:
        prefix = "> "

        @app.websocket("/echo/{name}")
        async def echo(self, ws: WebSocket, name: str) -> None:
            await ws.accept()
            await ws.send_text(self.prefix + name + await ws.receive_text())

    await served(Echo())
    assert await websocket(app, "/echo/x", "hi") == ["> xhi"]


async def test_subclass_inherits_routes_and_overrides_them() -> None:
    app = FastAPI()

    class Mixin:
        @app.get("/mixed")
        def mixed(self) -> str:
            return f"mixed {type(self).__name__}"

    @ingress(app)
    class Base(Mixin):
        @app.get("/kept")
        def kept(self) -> str:
            return "base"

        @app.get("/changed")
        def changed(self) -> str:
            return "base"

    class Child(Base):
        def changed(self) -> str:
            return super().changed() + " and child"

        @app.get("/added")
        def added(self) -> str:
            return "child"

    await served(Child())
    paths = ["/mixed", "/kept", "/changed", "/added"]
    assert [await get(app, path) for path in paths] == [
        "mixed Child",
        "base",
        "base and child",
        "child",
    ]


async def test_attribute_of_the_instance_does_not_hide_a_route() -> None:
    app = FastAPI()

    @ingress(app)
    class Model:
        def __init__(self) -> None:
            vars(self)["predict"] = 7

        @app.get("/predict")
        def predict(self) -> Any:
            return self.predict

    await served(Model())
    assert await get(app, "/predict") == 7


async def test_static_and_class_methods() -> None:
    app = FastAPI()

    @ingress(app)
    class Statics:
        word = "class"

        @app.get("/inner")
        @staticmethod
        def inner(word: str = "static") -> str:
            return word

        @staticmethod
        @app.get("/outer")
        def outer() -> str:
            return "static"

        @classmethod
        @app.get("/class")
        def of_class(cls) -> str:
            return cls.word

    await served(Statics())
    assert await get(app, "/inner?word=x") == "x"
    assert await get(app, "/outer") == "static"
    assert await get(app, "/class") == "class"


async def test_wrapped_methods() -> None:
    app = FastAPI()

    def shout(function: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> str:
            return function(*args, **kwargs).upper()

        return wrapper

    @ingress(app)
    class Wrapped:
        word = "word"

        @app.get("/below/{end}")
        @shout
        def below(self, end: str) -> str:
            return self.word + end

        @shout
        @app.get("/above")
        def above(self) -> str:
            return self.word

    await served(Wrapped())
    assert await get(app, "/below/x") == "WORDX"
    assert await get(app, "/above") == "word"  # as FastAPI does with functions


async def test_functions_and_bound_methods_are_left_alone() -> None:
    app = FastAPI()

    class Other:
        def method(self, x: int) -> int:
            return x + 1

    app.get("/other")(Other().method)

    @app.get("/function")
    def function() -> str:
        return "free"

    @ingress(app)
    class Empty:
        pass

    endpoints = [route.endpoint for route in app.routes if isinstance(route, APIRoute)]
    await served(Empty())
    assert [route.endpoint for route in app.routes if isinstance(route, APIRoute)] == endpoints
    assert await get(app, "/function") == "free"
    assert await get(app, "/other?x=1") == 2


async def test_depends_on_methods() -> None:
    app = FastAPI()
    calls: list[str] = []

    @ingress(app)
    class Guarded:
        user = "ann"

        def current(self, greeting: str = "hi") -> str:
            calls.append("current")
            return f"{greeting} {self.user}"

        async def opened(self, who: Annotated[str, Depends(current)]) -> AsyncIterator[str]:
            calls.append("open")
            yield who + "!"
            calls.append("close")

        def check(self) -> None:
            calls.append(f"check {self.user}")

        @app.get("/default")
        def default(self, who: str = Depends(current)) -> str:
            return who

        @app.get("/annotated", dependencies=[Depends(check)])
        def annotated(self, who: Annotated[str, Depends(opened)], same: str = Depends(current)):
            return [who, same]

        @app.websocket("/ws")
        async def ws(self, ws: WebSocket, who: str = Depends(current)) -> None:
            await ws.accept()
            await ws.send_text(who)

    await served(Guarded())
    assert await get(app, "/default?greeting=hello") == "hello ann"
    calls.clear()
    assert await get(app, "/annotated") == ["hi ann!", "hi ann"]
    assert calls == ["check ann", "current", "open", "close"]  # `current` once: its result is kept
    assert await websocket(app, "/ws") == ["hi ann"]
    assert '"self"' not in (await request(app, "GET", "/openapi.json")).text


async def test_functions_and_routers_that_depend_on_methods() -> None:
    app, router = FastAPI(), APIRouter()

    @ingress(app)
    class Guarded:
        user = "ann"

        def current(self, greeting: str = "hi") -> str:
            return f"{greeting} {self.user}"

        def check(self, response: Response) -> None:
            response.headers["x-checked"] = self.user

        @router.get("/routed")
        def routed(self) -> str:
            return "routed"

    def helper(who: str = Depends(Guarded.current)) -> str:
        return "helped " + who

    class Query:
        def __init__(self, who: str = Depends(Guarded.current)) -> None:
            self.who = who

    @app.get("/free")
    def free(who: Annotated[str, Depends(helper)], query: Annotated[Query, Depends()]) -> list[str]:
        return [who, query.who]

    app.include_router(router, dependencies=[Depends(Guarded.check)])
    await served(Guarded())
    assert await get(app, "/free") == ["helped hi ann", "hi ann"]
    response = await request(app, "GET", "/routed")
    assert (response.text, response.headers["x-checked"]) == ('"routed"', "ann")
    assert '"self"' not in (await request(app, "GET", "/openapi.json")).text


async def test_overridden_dependency_is_the_one_of_the_subclass() -> None:
    app = FastAPI()

    @ingress(app)
    class Base:
        def who(self) -> str:
            return "base"

        @app.get("/")
        def root(self, who: str = Depends(who)) -> str:
            return who

    class Child(Base):
        def who(self) -> str:
            return "child"

    await served(Child())
    assert await get(app, "/") == "child"


async def test_postponed_annotations_may_name_what_the_class_holds() -> None:
    source = """
from __future__ import annotations
@ingress(app)
class Postponed:
    class Body(BaseModel):
        text: str
    def who(self) -> str:
        return "me"
    @app.post("/")
    def root(self, who: Annotated[str, Depends(who)], body: Body) -> list[str]:
        return [who, body.text]
"""
    app = FastAPI()
    names = {name: globals()[name] for name in ("Annotated", "BaseModel", "Depends", "ingress")}
    namespace = {**names, "app": app, "__name__": "postponed"}
    try:
        exec(source, namespace)
    except PydanticUndefinedAnnotation:
        pytest.skip("this FastAPI refuses the route before it could be bound")
    await served(namespace["Postponed"]())
    response = await request(app, "POST", "/", json={"text": "hi"})
    assert response.json() == ["me", "hi"]


async def test_dependency_functions_and_their_overrides() -> None:
    app = FastAPI()
    closed: list[int] = []

    def number() -> Iterator[int]:
        yield 1
        closed.append(1)

    @ingress(app)
    class Numbers:
        @app.get("/")
        def root(self, n: Annotated[int, Depends(number)]) -> int:
            return n

        @app.websocket("/ws")
        async def ws(self, ws: WebSocket, n: int = Depends(number)) -> None:
            await ws.accept()
            await ws.send_text(str(n))

    await served(Numbers())
    assert await get(app, "/") == 1
    assert closed == [1]
    app.dependency_overrides[number] = lambda: 2
    assert await get(app, "/") == 2
    assert await websocket(app, "/ws") == ["2"]


async def test_classes_that_share_an_app_serve_their_own_routes() -> None:
    app = FastAPI()

    @app.get("/common")
    def common() -> str:
        return "common"

    @ingress(app)
    class First:
        @app.get("/first")
        def first(self) -> str:
            return "first"

    @ingress(app)
    class Second:
        @app.get("/second")
        def second(self) -> str:
            return "second"

    await served(Second())
    assert await get(app, "/second") == "second"
    assert await get(app, "/common") == "common"
    assert (await request(app, "GET", "/first")).status_code == 404


async def test_class_defined_again_takes_the_place_of_the_old_one() -> None:
    """As when a notebook cell runs twice."""
    app, router = FastAPI(), APIRouter()
    for version in ("old", "new"):

        class Mixin:
            answer = version

            @app.get("/mixin")
            def mixin(self) -> str:
                return Mixin.answer

        @ingress(app)
        class Cell(Mixin):
            @app.get("/")
            def root(self) -> str:
                return self.answer

            @router.get("/router")
            def routed(self) -> str:
                return Cell.answer

    app.include_router(router)
    await served(Cell())
    assert [await get(app, path) for path in ("/", "/mixin", "/router")] == ["new"] * 3
    paths = [route.path for route in app.routes if isinstance(route, APIRoute)]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    "signature", ["", "request: Request", "item_id", "*, q: int = 1", "q=1"], ids=repr
)
def test_route_without_self_is_named_with_its_place(signature: str) -> None:
    source = (
        "@ingress(app)\nclass Bad:\n"
        f"    @app.get('/x/{{item_id}}')\n    def root({signature}): return 1\n"
    )
    names = {"app": FastAPI(), "ingress": ingress, "Request": Request, "__name__": __name__}
    with pytest.raises(TypeError, match=r"bad\.py:3: Bad\.root has a route but no 'self'"):
        exec(compile(source, "bad.py", "exec"), names)


async def test_route_without_self_can_be_mended_in_the_same_session() -> None:
    names = {"app": FastAPI(), "ingress": ingress, "__name__": __name__}
    source = "@ingress(app)\nclass Mended:\n    @app.get('/')\n    def root(): return 'mended'\n"
    with pytest.raises(TypeError, match="no 'self'"):
        exec(source, names)
    exec(source.replace("root()", "root(self)"), names)
    await served(cast(Any, names["Mended"])())
    assert await get(names["app"], "/") == "mended"


async def test_route_without_self_on_a_router_included_later() -> None:
    app, router = FastAPI(), APIRouter()

    @ingress(app)
    class Bad:
        @router.get("/")
        def root() -> int:  # type: ignore[misc]
            return 1

    app.include_router(router)
    with pytest.raises(TypeError, match=r"test_ingress\.py:\d+: .*Bad\.root has a route but no"):
        await served(Bad())


async def test_self_may_have_another_name() -> None:
    app = FastAPI()

    @ingress(app)
    class Named:
        word = "this"

        @app.get("/")
        def root(this) -> str:
            return this.word

    await served(Named())
    assert await get(app, "/") == "this"


async def test_openapi_is_that_of_functions_without_self() -> None:
    def by_name(route: APIRoute) -> str:
        return f"id_{route.name}"

    plain, bound = (FastAPI(generate_unique_id_function=by_name) for _ in range(2))
    responses: Any = {404: {"model": Item}}
    plain_router, router = (APIRouter(prefix="/r", tags=["r"], responses=responses) for _ in "12")

    @plain.put("/one/{x}", summary="One", deprecated=True, name="uno")
    def one(x: int, item: Item, who: str = "me") -> list[Item]:
        """Says one.\fNot shown."""
        return [item] * x

    @plain_router.post("/two", response_class=PlainTextResponse, openapi_extra={"x-two": 2})
    def two(items: list[Item]) -> Response:
        return Response()

    @ingress(bound)
    class Api:
        @bound.put("/one/{x}", summary="One", deprecated=True, name="uno")
        def one(self, x: int, item: Item, who: str = "me") -> list[Item]:
            """Says one.\fNot shown."""
            return one(x, item, who)

        @router.post("/two", response_class=PlainTextResponse, openapi_extra={"x-two": 2})
        def two(self, items: list[Item]) -> Response:
            return two(items)

    plain.include_router(plain_router, tags=["included"])
    bound.include_router(router, tags=["included"])
    bound.openapi()
    await served(Api())
    assert bound.openapi() == plain.openapi()


async def test_response_streams_and_background_tasks() -> None:
    app = FastAPI()

    @ingress(app)
    class Streams:
        def __init__(self) -> None:
            self.done: list[str] = []

        async def words(self) -> AsyncIterator[str]:
            for word in ("a", "b"):
                yield word

        @app.get("/stream")
        async def stream(self) -> StreamingResponse:
            return StreamingResponse(self.words())

        @app.get("/task")
        def task(self, tasks: BackgroundTasks) -> str:
            tasks.add_task(self.done.append, "done")
            return "later"

    streams = Streams()
    await served(streams)
    assert (await request(app, "GET", "/stream")).text == "ab"
    assert await get(app, "/task") == "later"
    assert streams.done == ["done"]


async def test_hooks_of_the_app_may_be_methods() -> None:
    app = FastAPI()

    @ingress(app)
    class Hooks:
        def __init__(self) -> None:
            self.name = "hooks"

        @app.exception_handler(KeyError)
        async def missing(self, request: Request, error: KeyError) -> Response:
            return JSONResponse([self.name, str(error)], status_code=410)

        @app.middleware("http")
        async def stamp(self, request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["x-stamp"] = self.name
            return response

        def start(self) -> None:
            self.name = "started"

        @app.get("/")
        def root(self) -> str:
            raise KeyError("k")

    app.router.on_startup.append(cast(Any, Hooks.start))
    await served(Hooks())
    async with lifespan(app):
        response = await request(app, "GET", "/")
    assert (response.status_code, response.json()) == (410, ["started", "'k'"])
    assert response.headers["x-stamp"] == "started"


async def test_app_changed_in_the_constructor() -> None:
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def handler(request: Request, error: HTTPException) -> Response:
        return PlainTextResponse(f"handled {error.detail}", error.status_code)

    @ingress(app)
    class Changes:
        def __init__(self) -> None:
            app.add_middleware(GZipMiddleware, minimum_size=1)
            app.add_api_route("/added", self.added)
            app.state.lock = threading.Lock()

        def added(self, x: int) -> int:
            return x

        @app.get("/locked", name="lock")
        def locked(self, request: Request) -> list[Any]:
            return [request.app is app, request.app.state.lock.locked()]

        @app.get("/url")
        def url(self, request: Request) -> str:
            return str(request.url_for("lock"))

        @app.get("/teapot")
        def teapot(self) -> None:
            raise HTTPException(418, "tea")

    await served(Changes())
    response = await request(app, "GET", "/added?x=3")
    assert (response.json(), response.headers["content-encoding"]) == (3, "gzip")
    assert await get(app, "/locked") == [True, False]
    assert await get(app, "/url") == "http://test/locked"
    assert (await request(app, "GET", "/teapot")).text == "handled tea"


async def test_custom_route_classes_are_kept() -> None:
    class Wrapper:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["state"]["wrapped"] = scope["state"].get("wrapped", 0) + 1
            await self.app(scope, receive, send)

    class Custom(APIRoute):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["dependencies"] = [*kwargs["dependencies"], Depends(lambda: None)]
            super().__init__(*args, **kwargs)
            self.made = [*getattr(self, "made", []), "once"]
            self.app = Wrapper(self.app)

        def get_route_handler(self) -> Callable[..., Any]:
            handle = super().get_route_handler()

            async def handler(request: Request) -> Response:
                response = await handle(request)
                response.headers["x-made"] = ",".join([*self.made, str(len(self.dependencies))])
                return response

            return handler

    app = FastAPI()
    app.router.route_class = Custom

    @ingress(app)
    class Api:
        @app.get("/")
        def root(self, request: Request) -> int:
            return request.state.wrapped  # type: ignore[no-any-return]

    await served(Api())

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {}}, receive, send)

    response = await request(with_state, "GET", "/")
    assert (response.json(), response.headers["x-made"]) == (1, "once,1")


async def test_wrapper_that_hides_what_it_wraps_is_refused() -> None:
    def hide(app: Any) -> Any:
        async def hidden(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        return hidden

    class Hooked:
        async def page(self, request: Request) -> Response:
            return Response()

    app = Starlette(routes=[Route("/", Hooked.page, middleware=[Middleware(hide)])])
    ingress(app)(Hooked)
    with pytest.raises(TypeError, match=r"keeps it out of sight.*self\.app"):
        await served(Hooked())


async def test_starlette_routes_keep_their_middleware() -> None:
    def build() -> Starlette:
        return app

    @ingress(build)
    class Pages:
        word = "page" * 200

        async def page(self, request: Request) -> Response:
            return PlainTextResponse(self.word)

        def sync(self, request: Request) -> Response:
            return PlainTextResponse(str(threading.get_ident()))

        async def ws(self, ws: WebSocket) -> None:
            await ws.accept()
            await ws.send_text(self.word)

    zipped = [Middleware(GZipMiddleware)]
    app = Starlette(
        routes=[
            Route("/page", Pages.page, methods=["POST"], middleware=zipped),
            Mount("/m", routes=[Route("/sync", Pages.sync), WebSocketRoute("/ws", Pages.ws)]),
        ]
    )
    await served(Pages())
    response = await request(app, "POST", "/page")
    assert (response.text, response.headers["content-encoding"]) == (Pages.word, "gzip")
    assert (await request(app, "GET", "/m/sync")).text != str(threading.get_ident())
    assert await websocket(app, "/m/ws") == [Pages.word]


async def _plain(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("plain")(scope, receive, send)


class _Instance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await _plain(scope, receive, send)


async def _build_async() -> Any:
    return _plain


@pytest.mark.parametrize(
    "target",
    [
        _plain,
        _Instance(),
        PlainTextResponse("plain"),
        functools.partial(_plain),
        lambda: _plain,
        _build_async,
        lambda debug=False: _Instance(),
    ],
)
async def test_any_asgi_application_is_served_as_it_is(target: Any) -> None:
    @ingress(target)
    class Serves:
        pass

    app = await served(Serves())
    assert (await request(app, "GET", "/")).text == "plain"


async def test_builder_runs_in_the_replica_and_its_app_has_methods() -> None:
    built: list[FastAPI] = []

    def build() -> FastAPI:
        app = FastAPI()
        app.add_api_route("/", Built.root)
        built.append(app)
        return app

    @ingress(build)
    class Built:
        def root(self) -> str:
            return type(self).__name__

    assert not built
    app = await served(Built())
    assert built == [app]
    assert await get(app, "/") == "Built"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (APIRouter(), "not an APIRouter"),
        (FastAPI, "not the class FastAPI: write @serving.ingress"),
        (None, "takes an ASGI application"),
        ("module:app", "takes an ASGI application"),
        (lambda environ, start_response: None, "takes an ASGI application"),
    ],
)
def test_what_is_no_application_is_refused(target: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ingress(target)


async def test_builder_must_return_an_application() -> None:
    @ingress(lambda: APIRouter())
    class Router:
        pass

    with pytest.raises(TypeError, match="not an APIRouter"):
        await served(Router())

    @ingress(cast(Any, lambda: lambda: None))
    class Twice:
        pass

    with pytest.raises(TypeError, match="which is no ASGI application"):
        await served(Twice())


def test_only_classes_are_decorated() -> None:
    with pytest.raises(TypeError, match=r"decorates a class.*@serving\.deployment stands above it"):
        ingress(FastAPI())(lambda: None)  # type: ignore[type-var]
