"""A deployment that asks for the cluster that it runs in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import serving
from serving.exceptions import ServingError

IN_A_PROCESS = "import serving; print(serving.get_app_handle('asked').remote().result(10))"


@serving.deployment
class Inquirer:
    def __init__(self) -> None:
        self.handle = serving.get_app_handle("asked")
        self.known = list(serving.status().applications)

    async def ask(self) -> list[Any]:
        again = serving.get_app_handle("asked")
        return [self.known, await self.handle.remote(), await again.remote()]

    def ask_in_thread(self) -> Any:
        return serving.get_app_handle("asked").remote().result(10)

    def ask_in_process(self) -> str:
        command = [sys.executable, "-c", IN_A_PROCESS]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    async def refused(self, call: str) -> str:
        calls: dict[str, Any] = {
            "run": lambda: serving.run(answer.bind()),
            "start": serving.start,
            "delete": lambda: serving.delete("asked"),
            "shutdown": serving.shutdown,
        }
        try:
            calls[call]()
        except ServingError as error:
            return str(error)
        return "was done"


@serving.deployment
async def answer() -> str:
    return "of the own cluster"
