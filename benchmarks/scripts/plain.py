"""What a newcomer's first script does: serve a function, and ask it."""

import sys
import urllib.request

from starlette.requests import Request

import serving


@serving.deployment
async def hello(request: Request) -> str:
    return "hello"


serving.start(http_options=serving.HTTPOptions(port=int(sys.argv[1])))
serving.run(hello.bind())
with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/") as response:
    print(response.read().decode(), flush=True)
serving.shutdown()
