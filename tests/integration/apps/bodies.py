"""Large and small bodies, both ways."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import Response, StreamingResponse

import serving

BLOCK = bytes(range(256)) * 256

app = FastAPI()


@serving.deployment
@serving.ingress(app)
class Bodies:
    """Takes them and gives them in all ways."""

    @app.post("/upload")
    async def upload(self, request: Request) -> dict[str, Any]:
        """Reads chunk by chunk."""
        digest, size, largest = hashlib.sha1(usedforsecurity=False), 0, 0
        async for chunk in request.stream():
            digest.update(chunk)
            size += len(chunk)
            largest = max(largest, len(chunk))
        return {"size": size, "sha1": digest.hexdigest(), "largest": largest}

    @app.post("/count")
    async def count(self, request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.post("/echo")
    async def echo(self, request: Request) -> Response:
        return Response(await request.body())

    @app.post("/piped")
    async def piped(self, request: Request) -> Response:
        """Answers while it reads."""
        return StreamingResponse(request.stream())

    @app.post("/ignored")
    async def ignored(self) -> str:
        return "not read"

    @app.post("/files")
    async def files(self, first: UploadFile, second: UploadFile) -> list[list[Any]]:
        return [
            [file.filename, file.content_type, file.size, sha1(await file.read())]
            for file in (first, second)
        ]

    @app.get("/download/{blocks}")
    async def download(self, blocks: int) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            for _ in range(blocks):
                yield BLOCK

        length = {"content-length": str(blocks * len(BLOCK))}
        return StreamingResponse(generate(), headers=length)

    @app.api_route("/whole/{size}", methods=["GET", "HEAD"])
    async def whole(self, size: int) -> Response:
        return Response(b"w" * size)

    @app.get("/headers/{count}")
    async def headers(self, count: int) -> Response:
        return Response(headers={f"x-{number}": "v" * 1000 for number in range(count)})

    @app.get("/status/{status}")
    async def bodiless(self, status: int) -> Response:
        return Response(status_code=status)

    @app.post("/continue/{read}")
    async def after_continue(self, request: Request, read: bool) -> int:
        return len(await request.body()) if read else -1


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
