"""A class that answers HTTP requests from a process of its own.

With the virtual environment of `make demo` activated (`. ../../.venv/bin/activate`), run it in this
folder with `serving run app:app`, and ask it something:

    curl 'http://localhost:8000/?name=Ada'
"""

from __future__ import annotations

from starlette.requests import Request

import serving as serve


@serve.deployment
class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, request: Request) -> dict[str, str]:
        name = request.query_params.get("name", "world")
        return {"message": f"{self.greeting}, {name}!"}


app = Greeter.bind("Hello")
