"""What this machine has, as far as nobody said otherwise."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path

from serving.config import NodeOptions
from serving.controller.resources import CPU, MEMORY, Node, accelerator_kind, amounts

log = logging.getLogger("serving.controller")

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_NVIDIA_SMI_TIMEOUT_S = 10.0
# "NVIDIA A100-SXM4-40GB" is an A100, "Tesla T4" a T4.
_MODEL = re.compile(r"\w+\s+([A-Z0-9]+)")


def this_node(options: NodeOptions) -> Node:
    """This machine, with what was said of it in the place of what was found."""
    models = [] if options.num_gpus == 0 else _gpu_models()
    gpus = _visible(len(models))
    if options.num_gpus is not None:
        found = gpus if len(gpus) >= options.num_gpus else map(str, range(options.num_gpus))
        gpus = tuple(found)[: options.num_gpus]
    totals = amounts(
        {
            CPU: _given(options.num_cpus, len(os.sched_getaffinity(0))),
            MEMORY: _given(options.memory, _memory()),
            **{accelerator_kind(model): 1 for model in models if model and gpus},
            **(options.resources or {}),
        }
    )
    return Node("local", totals, gpus)


def _given(told: float | None, found: float) -> float:
    return found if told is None else told


def _visible(count: int) -> tuple[str, ...]:
    """The GPUs that we may use, by the names that CUDA has for them."""
    told = os.environ.get(VISIBLE_GPUS)
    if told is None:
        return tuple(str(number) for number in range(count))
    names = [name.strip() for name in told.split(",")]
    # CUDA takes those before the first that is none: "-1" hides all.
    end = next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))
    return tuple(names[:end])


def _gpu_models() -> list[str]:
    """Of each NVIDIA GPU, as far as the driver or its tool tells."""
    if _NVIDIA.is_dir():
        files = sorted(_NVIDIA.glob("*/information"))
        lines = [line for file in files for line in file.read_text().splitlines()]
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    elif (tool := shutil.which("nvidia-smi")) is not None:  # as under WSL
        names = _ask_nvidia_smi(tool)
    else:
        names = []
    matches = [_MODEL.match(name) for name in names]
    return [match[1] if match else "" for match in matches]


def _ask_nvidia_smi(tool: str) -> list[str]:
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("nvidia-smi does not tell which GPUs there are: %s", error)
        return []
    return answer.stdout.splitlines()


def _memory() -> int:
    """Bytes, of the machine or of the container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such limit, or "max"
        return total
