"""The same with a FastAPI application and a route as a method."""

import sys
import urllib.request

from fastapi import FastAPI

import serving

app = FastAPI()


@serving.deployment
@serving.ingress(app)
class Hello:
    @app.get("/")
    async def hello(self) -> str:
        return "hello"


serving.start(http_options=serving.HTTPOptions(port=int(sys.argv[1])))
serving.run(Hello.bind())
with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/") as response:
    print(response.read().decode(), flush=True)
serving.shutdown()
