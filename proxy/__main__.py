"""``python -m serving.proxy``: one proxy process, started by the supervisor."""

from __future__ import annotations

import os
import signal

import uvloop

from serving import lifeline
from serving.proxy.server import ProxyConfig, serve

LIFELINE_GRACE_S = 1.0


def main() -> None:
    """Runs a proxy until SIGTERM, or until the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal's Ctrl-C is the owner's.
    lifeline.watch(lambda: os.kill(os.getpid(), signal.SIGTERM), kill_after_s=LIFELINE_GRACE_S)
    uvloop.run(serve(ProxyConfig.from_environment()))


if __name__ == "__main__":
    main()
