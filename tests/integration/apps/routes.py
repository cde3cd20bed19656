"""An application that tells what it is asked for."""

from __future__ import annotations

from starlette.requests import Request

import serving


@serving.deployment
class Tells:
    """Answers its own name, and the paths of the request as it sees them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, request: Request) -> dict[str, str]:
        return {
            "name": self.name,
            "path": request.url.path,
            "root_path": request.scope["root_path"],
            "raw_path": request.scope["raw_path"].decode(),
            "base_url": str(request.base_url),
        }
