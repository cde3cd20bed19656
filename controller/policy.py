"""Autoscaling policies of users, each in a process of its own.

A policy is user code: it may import anything, raise, block or end its process, and none of that may
touch the controller. `python -m serving.controller.policy` is that process. It speaks lines of
JSON: in comes the code, once, then a context for each decision; out goes what the function returned
or raised. It ends when the controller closes its end or is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.code import load, sources
from serving.config import AutoscalingConfig, AutoscalingContext
from serving.v1.controller_pb2 import Code

ANSWER_TIMEOUT_S = 30.0
"""In which a policy must answer, the import of its module included."""
RESTART_PAUSE_S = 10.0
"""After which a policy whose process ended, or was killed for its silence, gets another one."""


@dataclass(frozen=True)
class Answer:
    """What a policy asks for; NaN, and why, where it does not say."""

    asked: float
    error: str = ""


class PolicyProcess:
    """The policy of one deployment. Must be closed."""

    def __init__(self, code: Code, sources_dir: str = "") -> None:
        """`sources_dir`: where the modules are kept that it may import, if they are."""
        self._code = code
        self._sources_dir = sources_dir
        self._process: asyncio.subprocess.Process | None = None
        self._failed_at = -math.inf
        self._error = ""

    async def ask(self, context: AutoscalingContext) -> Answer:
        """Asks it. To be called again only when it has answered."""
        if time.monotonic() - self._failed_at < RESTART_PAUSE_S:
            return Answer(math.nan, self._error)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                line = await self._exchange(json.dumps(as_json(context)))
        except TimeoutError:
            return self._gave_up(f"the policy did not answer within {ANSWER_TIMEOUT_S:g} s")
        except OSError as error:
            return self._gave_up(f"the policy's process ended: {error}")
        if not line:
            return self._gave_up("the policy's process ended")
        answer = json.loads(line)
        if "error" in answer:
            return Answer(math.nan, answer["error"])
        return Answer(float(answer["asked"]))

    def close(self) -> None:
        """Ends it."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _exchange(self, line: str) -> bytes:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "serving.controller.policy"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**20,
            )
            code = [self._code.SerializeToString().hex(), self._sources_dir]
            line = json.dumps(code) + "\n" + line
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        return await self._process.stdout.readline()

    def _gave_up(self, error: str) -> Answer:
        self.close()
        self._failed_at, self._error = time.monotonic(), error
        return Answer(math.nan, error)


def as_json(context: AutoscalingContext) -> dict[str, Any]:
    values = {name: value for name, value in vars(context).items() if name != "config"}
    return {**values, "config": context.config.model_dump(exclude_none=True)}


def as_context(values: dict[str, Any]) -> AutoscalingContext:
    """The inverse of what travels."""
    return AutoscalingContext(
        **{**values, "config": AutoscalingConfig.model_validate(values["config"])}
    )


def answer_of(function: Callable[..., Any], context: AutoscalingContext) -> dict[str, Any]:
    """What the policy says, in JSON's types; what it returns beside its number becomes the
    context's `policy_state`."""
    try:
        returned = function(context)
        count, state = returned if isinstance(returned, tuple) else (returned, {})
        if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < 1e9:
            raise ValueError(
                "an autoscaling policy returns how many replicas there are to be, or that and a "
                f"dict; not {returned!r}"
            )
        if not isinstance(state, dict):
            raise ValueError(f"what a policy returns beside its number is a dict, not {state!r}")
    except BaseException:  # sys.exit() too
        return {"error": traceback.format_exc(limit=-5)}
    context.policy_state.clear()
    context.policy_state.update(state)
    return {"asked": float(count)}


def main() -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the policy prints goes to the log
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(lines, out), daemon=True).start()
    # The policy may block: the end of the controller is seen here.
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(lines: queue.SimpleQueue[str], out: Any) -> None:
    code, sources_dir = json.loads(lines.get())
    function, failure = None, ""
    try:
        if sources_dir:
            sources.install(sources_dir, ())
        function = load(Code.FromString(bytes.fromhex(code)))
    except BaseException:
        failure = traceback.format_exc(limit=-5)
    state: dict[str, Any] = {}
    while True:
        values = json.loads(lines.get())
        if function is None:
            answer: dict[str, Any] = {"error": failure}
        else:
            answer = answer_of(function, as_context({**values, "policy_state": state}))
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
