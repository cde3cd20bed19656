"""``python -m serving.replica SPEC``: one replica, started by the controller's engine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import uvloop

from serving import lifeline, logs
from serving.config import ADDRESS_VARIABLE, LoggingConfig
from serving.replica.process import ReplicaProcess
from serving.v1.controller_pb2 import ReplicaSpec

LIFELINE_GRACE_S = 1.0


async def _run(spec: ReplicaSpec) -> int:
    replica = ReplicaProcess(spec)
    loop = asyncio.get_running_loop()
    grace_s = spec.deployment.options.graceful_shutdown_timeout_s
    loop.add_signal_handler(signal.SIGTERM, replica.begin_drain, grace_s)
    lifeline.watch(lambda: replica.begin_drain(LIFELINE_GRACE_S / 2), kill_after_s=LIFELINE_GRACE_S)
    status = await replica.run()
    if replica.ongoing:
        _exit_now(status)
    return status


def _exit_now(status: int) -> NoReturn:
    """Ends the process where handlers still run in threads: nothing stops these, and the
    interpreter's own end would wait for them."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def main() -> None:
    """Runs the replica whose serialized ReplicaSpec is in the file named by the argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal's Ctrl-C is the owner's.
    spec = ReplicaSpec.FromString(Path(sys.argv[1]).read_bytes())
    logging_config = LoggingConfig.model_validate_json(os.environ.get("SERVING_LOGGING", "{}"))
    # For this process, and for what it starts, the cluster is its own.
    os.environ[ADDRESS_VARIABLE] = spec.controller_address
    logs.configure_replica(spec.replica_id, logging_config)
    status = uvloop.run(_run(spec))
    sys.exit(status)


if __name__ == "__main__":
    main()
