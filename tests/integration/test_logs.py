"""What stands in the log of a request, in each process that it passes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.apps import logged
from tests.support.cluster import Cluster
from tests.support.control import until

NAMES = [f"n-{number}" for number in range(logged.AT_ONCE)]
FIELDS = r"request_id=(\S+) route=/logged application=logged model_id=m-1"


def ask(cluster: Cluster, name: str) -> str:
    headers = {"x-request-id": f"id-of-{name}", "serve_multiplexed_model_id": "m-1"}
    return cluster.get(f"/logged?name={name}", headers=headers).text


def test_each_line_of_many_requests_at_once_tells_of_its_own(
    cluster: Cluster, tmp_path: Path
) -> None:
    own_log = tmp_path / "own.log"
    leaf = logged.Leaf.bind(str(own_log))
    application = logged.Front.bind(logged.Middle.bind(leaf))
    with cluster.running(application, "/logged"), ThreadPoolExecutor(len(NAMES)) as threads:
        assert list(threads.map(lambda name: ask(cluster, name), NAMES)) == NAMES
        ask(cluster, "warns")
        cluster.logged(" -- warned")
        until(lambda: len(re.findall("GET /logged 200 ", cluster.log())) == len(NAMES) + 1)

    log = cluster.log()
    expected = [(f"id-of-{name}", name) for name in sorted(NAMES)]
    for step in ("before", "after", "front"):
        assert sorted(re.findall(rf"{FIELDS} -- {step} (\S+)$", log, re.MULTILINE)) == expected
    access = r"-- logged /logged GET /logged 200 \S+ (id-of-n-\d+) model_id=m-1$"
    assert sorted(re.findall(access, log, re.MULTILINE)) == [one for one, _ in expected]
    assert sorted(own_log.read_text().splitlines()) == [
        f"{one} own {name}" for one, name in expected
    ]
    # A batch works for all of them, and they were all there at once.
    (together,) = re.findall(rf"{FIELDS} -- together$", log, re.MULTILINE)
    assert sorted(together.split(",")) == [one for one, _ in expected]
    assert re.search(rf"WARNING .*#Front#\S+ {FIELDS.replace('(', '(?:')} -- warned$", log, re.M)
