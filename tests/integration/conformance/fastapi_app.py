"""The FastAPI application of the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketException,
)
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from tests.integration.conformance.journal import Journal, digest


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = 1.5
    tags: set[str] = set()


class Public(BaseModel):
    name: str


class OutOfStock(Exception):
    pass


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"shared": {}, "greeting": "hello from the lifespan"}


fastapi_app = FastAPI(title="Conformance", version="1.2.3", lifespan=lifespan)
router = APIRouter(prefix="/api/v1", tags=["router"])
sub_app = FastAPI(title="Mounted")


async def journal_of(request: Request) -> AsyncIterator[list[dict[str, Any]]]:
    journal: list[dict[str, Any]] = request.scope["journal"]
    journal.append({"dependency": "entered"})
    try:
        yield journal
    except OutOfStock:
        journal.append({"dependency": "saw the exception"})
        raise
    finally:
        journal.append({"dependency": "left"})


Entries = Annotated[list[dict[str, Any]], Depends(journal_of)]


@fastapi_app.get("/items/{item_id}")
async def read_item(
    item_id: int,
    q: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(le=10)] = 1,
    x_token: Annotated[str | None, Header()] = None,
    session: Annotated[str | None, Cookie()] = None,
) -> dict[str, Any]:
    return {"item_id": item_id, "q": q, "limit": limit, "x_token": x_token, "session": session}


@fastapi_app.post("/items", response_model=Public, status_code=201)
async def create_item(item: Item, response: Response) -> Item:
    response.headers["x-tags"] = ",".join(sorted(item.tags))
    response.set_cookie("last", item.name)
    return item


@fastapi_app.get("/in-thread")
def in_thread(request: Request) -> str:
    return request.url.path


@fastapi_app.get("/dependency")
async def dependency(journal: Entries, fails: bool = False) -> str:
    journal.append({"handler": "ran"})
    if fails:
        raise OutOfStock("none left")
    return "ok"


@fastapi_app.get("/dependency-stream")
async def dependency_stream(journal: Entries) -> StreamingResponse:
    async def content() -> AsyncIterator[bytes]:
        for number in range(2):
            journal.append({"chunk": number})
            yield b"chunk %d" % number

    return StreamingResponse(content(), media_type="text/event-stream")


@fastapi_app.exception_handler(OutOfStock)
async def handle_out_of_stock(request: Request, error: OutOfStock) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=409)


@fastapi_app.get("/forbidden")
async def forbidden() -> None:
    raise HTTPException(403, {"why": "closed"}, headers={"x-reason": "closed"})


@fastapi_app.get("/raises")
async def raises() -> None:
    raise RuntimeError("secret detail")


@fastapi_app.get("/background")
async def background(journal: Entries, tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(journal.append, {"ran": "task"})
    return {"state": "accepted"}


@fastapi_app.get("/state")
async def state(request: Request) -> dict[str, str | None]:
    own = getattr(request.state, "own", None)
    request.state.own = "left behind"
    return {"own": own, "greeting": getattr(request.state, "greeting", None)}


@fastapi_app.delete("/items/{item_id}", status_code=204, response_model=None)
async def delete_item(item_id: int) -> None:
    return None


@fastapi_app.get("/html", response_class=HTMLResponse)
async def html(request: Request) -> str:
    return f"<a href='{request.url_for('read_item', item_id=3)}'>three</a>"


@fastapi_app.post("/upload")
async def upload(
    files: Annotated[list[UploadFile], File()], note: Annotated[str, Form()] = ""
) -> dict[str, Any]:
    contents = {file.filename: digest(await file.read()) for file in files}
    return {"note": note, "files": contents}


@router.get("/routed/{rest:path}")
async def routed(rest: str, request: Request) -> dict[str, Any]:
    return {"rest": rest, "root_path": request.scope["root_path"]}


@sub_app.get("/leaf")
async def leaf(request: Request) -> dict[str, str]:
    return {"root_path": request.scope["root_path"], "url": str(request.url_for("leaf"))}


@fastapi_app.websocket("/ws/{room}")
async def chat(websocket: WebSocket, room: int, token: str | None = None) -> None:
    if token is None:
        raise WebSocketException(1008, "no token")
    await websocket.accept()
    if token == "late":
        raise WebSocketException(1008, "wrong token")
    async for text in websocket.iter_text():
        await websocket.send_json({"room": room, "text": text})


@fastapi_app.middleware("http")
async def stamp(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-stamp"] = request.url.path
    return response


fastapi_app.include_router(router)
fastapi_app.mount("/sub", sub_app)
fastapi_app.add_middleware(Journal)
