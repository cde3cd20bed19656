from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from serving.cli.overview import lines, table
from serving.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    Decision,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaFailure,
    ReplicaOverview,
    ServeStatus,
)

STATUS = ServeStatus(
    proxies={"proxy-0": ProxyStatus.HEALTHY},
    applications={
        "shop": ApplicationStatusOverview(
            status=ApplicationStatus.UPDATE_FAILED,
            message="deployment 'Ranker' could not start",
            last_deployed_time_s=1.0,
            route_prefix="/shop",
            deployments={
                "Ranker": DeploymentStatusOverview(
                    status=DeploymentStatus.UPDATE_FAILED,
                    status_trigger=DeploymentStatusTrigger.REPLICA_STARTUP_FAILED,
                    replica_states={"RUNNING": 2},
                    message="could not start: [no] model",
                    replicas=[ReplicaOverview("shop#Ranker#1", "RUNNING", 77, "v1", 1.0)],
                    decisions=[Decision(1.0, f"decision {number}") for number in range(5)],
                    last_failures=[ReplicaFailure(1.0, "shop#Ranker#2", "no model\nTraceback")],
                )
            },
        )
    },
    http_host="127.0.0.1",
    http_port=8000,
    admin_url="http://127.0.0.1:8270",
    grpc_host="::1",
    grpc_port=9000,
)
FACTS = [
    "http://127.0.0.1:8000/",
    "http://127.0.0.1:8270/",
    "gRPC: [::1]:9000",
    "proxy-0: HEALTHY",
    "shop",
    "/shop",
    "UPDATE_FAILED",
    "2 RUNNING",
    "could not start: [no] model",
    "process 77",
    "decision 4",
    "shop#Ranker#2 failed: no model",
]


def test_lines_tell_every_fact() -> None:
    text = "\n".join(lines(STATUS))

    assert [fact for fact in FACTS if fact not in text] == []
    assert "decision 1" not in text
    assert "Traceback" not in text


def test_table_tells_the_same() -> None:
    output = io.StringIO()

    Console(file=output, width=200).print(table(STATUS))

    assert [fact for fact in FACTS if fact not in output.getvalue()] == []


def test_cluster_without_applications_says_so() -> None:
    assert lines(ServeStatus()) == ["No applications"]


def test_message_of_an_application_that_runs_is_told() -> None:
    back = "rolled back from generation 5"
    shop = STATUS.applications["shop"]
    running = replace(shop, status=ApplicationStatus.RUNNING, message=back)
    output = io.StringIO()

    Console(file=output, width=200).print(table(replace(STATUS, applications={"shop": running})))

    assert back in output.getvalue()
    assert f"  {back}" in lines(replace(STATUS, applications={"shop": running}))
    assert f"  {shop.message}" not in lines(STATUS)
