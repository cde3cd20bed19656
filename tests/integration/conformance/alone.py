"""Serves applications by uvicorn alone, with its default settings:

python -m tests.integration.conformance.alone <import path> <listening descriptor> <root path> …
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn


async def serve(arguments: list[str]) -> None:
    servers = []
    for path, descriptor, root_path in zip(*[iter(arguments)] * 3, strict=True):
        config = uvicorn.Config(path, root_path=root_path, log_level="critical")
        listener = socket.socket(fileno=int(descriptor))
        servers.append(uvicorn.Server(config).serve(sockets=[listener]))
    await asyncio.gather(*servers)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(serve(sys.argv[1:]))
