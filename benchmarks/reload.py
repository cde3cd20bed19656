"""How long `serving run --reload` takes from a saved file to the first new answer, beside what the
user's own import takes: `python benchmarks/reload.py`."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from servers import free_port

CHANGES = 10
APP = """
import serving
import helper

@serving.deployment
async def hello(request):
    return helper.text()

app = hello.bind()
"""


def answer(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as response:
        text: str = response.read().decode()
        return text


def reload_s(folder: Path, port: int, number: int) -> float:
    """From the change of a module two imports deep to the answer that shows it."""
    started_at = time.perf_counter()
    (folder / "texts.py").write_text(f"TEXT = 'text {number}'\n")
    while answer(port) != f"text {number}":
        time.sleep(0.005)
    return time.perf_counter() - started_at


def import_s(folder: Path) -> float:
    """What a fresh interpreter takes to import the application."""
    started_at = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import app"], cwd=folder, check=True)
    return time.perf_counter() - started_at


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "app.py").write_text(APP)
        (folder / "helper.py").write_text("from texts import TEXT\ndef text(): return TEXT\n")
        (folder / "texts.py").write_text("TEXT = 'text'\n")
        command = [sys.executable, "-m", "serving.cli", "run", "app:app", "--reload"]
        with subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            stderr=subprocess.PIPE,
            env={**os.environ, "SERVING_STATE_DIR": str(folder / "state")},
            text=True,
        ) as process:
            assert process.stderr is not None
            while "is ready at" not in process.stderr.readline():
                pass
            times = [reload_s(folder, port, number) for number in range(CHANGES)]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        imports = [import_s(folder) for _ in range(CHANGES)]
    print(f"reload: median {statistics.median(times):.2f} s, slowest {max(times):.2f} s")
    print(f"import alone: median {statistics.median(imports):.2f} s")


if __name__ == "__main__":
    main()
