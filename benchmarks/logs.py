"""What a line of the log costs: a FastAPI route that logs one, beside the same without.

Both are of one replica and are loaded by turns. Its log goes to a file; the proxy's own, of each
access, is off. The target is that of a route which does nothing else.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from functools import partial

import psutil
from fastapi import FastAPI
from handles import Comparison, Way, show
from loads import Sample, Scenario, drive, require_wrk
from servers import free_port

import serving

TARGET = 0.95
CONNECTIONS = 64
logger = logging.getLogger("serving.benchmark")
routes = FastAPI()


@serving.deployment(max_ongoing_requests=200)
@serving.ingress(routes)
class Logging:
    @routes.get("/quiet/{item_id}")
    async def quiet(self, item_id: int) -> dict[str, int]:
        return {"item_id": item_id}

    @routes.get("/logged/{item_id}")
    async def logged(self, item_id: int) -> dict[str, int]:
        logger.info("item %d", item_id)
        return {"item_id": item_id}


app = Logging.bind()


def compare(port: int) -> Comparison:
    """The two routes."""
    [replica] = [
        process
        for process in psutil.Process().children(recursive=True)
        if "serving.replica" in process.cmdline()
    ]

    def load(path: str, connections: int, seconds: float) -> Sample:
        return drive(Scenario(path, path, "", path=path), port, connections, seconds)

    ways = [
        Way(f"{name} route", partial(load, f"/{name}/42"), {"replica": replica})
        for name in ("logged", "quiet")
    ]
    return Comparison("log", "a FastAPI route", CONNECTIONS, ways, target=TARGET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    require_wrk()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        serving.start(
            http_options=serving.HTTPOptions(port=port),
            logging_config=serving.LoggingConfig(logs_dir=folder, enable_access_log=False),
        )
        try:
            # By the name under which the replica finds it, not as __main__'s.
            from logs import app

            serving.run(app)
            found = compare(port)
            found.run(args.seconds, args.rounds)
        finally:
            serving.shutdown()
    print(show(found))
    print(f"target: rate x {found.target}")


if __name__ == "__main__":
    main()
