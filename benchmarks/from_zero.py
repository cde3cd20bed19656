"""From zero replicas to the first answer, beside what it takes to start Python and import the same.

The issue's target: the import time + 0.5 s; and 100 requests at once start one replica.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from report import table

import serving

ROUNDS = 5
TARGET_S = 0.5
IMPORTS = "import serving.replica.__main__, starlette.requests, grpc.aio, uvloop"


@serving.deployment(autoscaling_config={"min_replicas": 0, "downscale_to_zero_delay_s": 0.1})
class Nothing:
    async def __call__(self, request: object) -> str:
        return "hello"


def timed(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def import_time() -> float:
    """Of a process that imports what a replica does, and ends."""
    return timed(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True))


def at_zero() -> serving.Deployment:
    """Waits until there is no replica."""
    while True:
        deployment = serving.status().applications["default"].deployments["Nothing"]
        if not deployment.replica_states:
            return deployment
        time.sleep(0.02)


def at_once(url: str, count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: requests.get(url, timeout=60), range(count)))
    assert all(answer.status_code == 200 for answer in answers)


def main() -> None:
    serving.start(logging_config={"log_level": "WARNING", "enable_access_log": False})
    serving.run(Nothing.bind())
    url = serving.status().url
    rows = []
    for count in (1, 100):
        importing, answered = [], []
        for _ in range(ROUNDS):
            importing.append(import_time())
            at_zero()
            answered.append(timed(lambda count=count: at_once(url, count)))
        before, after = statistics.median(importing), statistics.median(answered)
        verdict = "met" if after - before <= TARGET_S else "missed"
        numbers = [f"{value * 1000:.0f}" for value in (before, after, after - before)]
        rows.append([str(count), *numbers, verdict])
    texts = [each.text.split(":")[0] for each in at_zero().decisions]
    serving.shutdown()
    steps = {text for text in texts if text.startswith("scale")}
    assert steps == {"scale from 0 to 1", "scale from 1 to 0"}, steps
    heads = ["requests at once", "import, ms", "all answered, ms", "beyond, ms", "target"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
