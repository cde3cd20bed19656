"""What is PUT is deployed by a process of its own: it imports the user's code, which this one must
not, and a fresh interpreter sees the code as it is now."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from starlette.responses import PlainTextResponse, Response

from serving.config import ADDRESS_VARIABLE

# Imports may load much; who waits longer than this does not any more.
DEPLOY_TIMEOUT_S = 300.0
# Exit codes of the command, see `serving.cli.exit_codes`, and what they are in HTTP.
_STATUS = {0: 200, 2: 400, 3: 422}


class Deploys:
    """Deploys one config after another."""

    def __init__(self, controller_address: str) -> None:
        self._address = controller_address
        self._turn = asyncio.Lock()

    async def __call__(self, config: bytes) -> Response:
        """Deploys a config of Ray Serve's schema; what is wrong with it is the answer."""
        async with self._turn:
            code, output = await self._run(config)
        if code == 0:
            return Response()
        return PlainTextResponse(output, _STATUS.get(code, 500))

    async def _run(self, config: bytes) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "serving.cli", "deploy", "--no-wait", "-"),
            env={**os.environ, ADDRESS_VARIABLE: self._address},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(DEPLOY_TIMEOUT_S):
                _, errors = await process.communicate(config)
        except TimeoutError:
            return 1, f"serving: the deploy took more than {DEPLOY_TIMEOUT_S:.0f} s\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return process.returncode or 0, errors.decode(errors="replace")
