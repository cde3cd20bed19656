"""What a machine is found, or said, to have."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config import NodeOptions
from serving.controller import node
from serving.controller.resources import CPU, MEMORY, UNIT


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a driver of NVIDIA's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(node, "_NVIDIA", tmp_path / "gpus")
    monkeypatch.setenv("PATH", str(tmp_path))


def has_driver(folder: Path, *models: str) -> None:
    for number, model in enumerate(models):
        gpu = folder / "gpus" / f"0000:{number:02}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 17\n")


def test_machine_has_what_is_found() -> None:
    found = node.this_node(NodeOptions())

    assert found.gpus == ()
    assert found.totals[CPU] >= UNIT
    assert found.totals[MEMORY] > 2**20


def test_machine_has_what_was_said() -> None:
    told = NodeOptions(num_cpus=0.5, num_gpus=3, memory=1000, resources={"license": 2})

    found = node.this_node(told)

    assert found.gpus == ("0", "1", "2")
    assert found.totals == {CPU: UNIT // 2, MEMORY: 1000, "license": 2 * UNIT}


def test_gpus_are_those_of_the_driver(tmp_path: Path) -> None:
    has_driver(tmp_path, "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB")

    found = node.this_node(NodeOptions())

    assert found.gpus == ("0", "1")
    assert found.totals["accelerator_type:A100"] == UNIT
    assert node.this_node(NodeOptions(num_gpus=1)).gpus == ("0",)
    assert node.this_node(NodeOptions(num_gpus=0)).gpus == ()


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("2,3", ("2", "3")),
        ("", ()),
        ("-1", ()),
        ("GPU-8932f937", ("GPU-8932f937",)),
        ("1,-1,2", ("1",)),
    ],
)
def test_gpus_are_those_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, gpus: tuple[str, ...]
) -> None:
    has_driver(tmp_path, "Tesla T4", "Tesla T4", "Tesla T4", "Tesla T4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert node.this_node(NodeOptions()).gpus == gpus


def test_tool_of_the_driver_is_asked_where_proc_tells_nothing(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Tesla T4'\necho 'Tesla T4'\n")
    tool.chmod(0o700)

    assert node.this_node(NodeOptions()).gpus == ("0", "1")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert node.this_node(NodeOptions()).gpus == ()
