"""The files and variables that replicas run with."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving
from tests.support.cluster import Cluster
from tests.support.control import descendants, until
from tests.support.processes import processes, replicas


@serving.deployment(num_replicas=2)
class Runner:
    """Tells where it runs, and what it imports there."""

    def __init__(self) -> None:
        import flavour  # type: ignore[import-not-found]

        self.flavour = flavour

    def __call__(self, request: object) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "name": self.flavour.NAME,
            "data": Path("data.txt").read_text() if Path("data.txt").exists() else None,
        }


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "flavour.py").write_text("NAME = 'mint'\n")
    (folder / "data.txt").write_text("1")
    yield folder
    sys.modules.pop("flavour", None)


def in_folder(folder: Path, **more: Any) -> serving.Application:
    env = {"working_dir": str(folder), **more}
    return Runner.options(ray_actor_options={"runtime_env": env}).bind()


def answers(cluster: Cluster) -> dict[int, dict[str, Any]]:
    """By process, of both replicas."""
    found: dict[int, dict[str, Any]] = {}

    def both() -> bool:
        answer = cluster.get().json()
        found[answer.pop("pid")] = answer
        return {replica.pid for replica in replicas("root")} == found.keys()

    until(both)
    return found


def test_replica_that_is_replaced_runs_what_was_deployed(cluster: Cluster, folder: Path) -> None:
    """Also where the folder has changed since, and another controller starts it."""
    with cluster.running(in_folder(folder)):
        first = answers(cluster)
        (one, other) = first.values()
        assert one == other
        assert (one["name"], one["data"]) == ("mint", "1")
        assert one["cwd"] != str(folder)

        (folder / "flavour.py").write_text("NAME = 'lemon'\n")
        (folder / "data.txt").unlink()
        (controller,) = processes("serving.controller")
        controller.kill()
        for pid in first:
            os.kill(pid, signal.SIGKILL)

        def are_replaced() -> bool:
            pids = {replica.pid for replica in replicas("root")}
            return len(pids) == 2 and not pids & first.keys()

        until(are_replaced)
        assert list(answers(cluster).values()) == [one, one]


def test_changed_file_is_another_version(cluster: Cluster, folder: Path) -> None:
    with cluster.running(in_folder(folder)):
        first = answers(cluster)
        serving.run(in_folder(folder), name="root")
        assert answers(cluster).keys() == first.keys()

        (folder / "data.txt").write_text("2")
        serving.run(in_folder(folder), name="root")

        until(lambda: len(replicas("root")) == 2)
        assert {answer["data"] for answer in answers(cluster).values()} == {"2"}


def test_module_that_the_deployer_imported_comes_from_the_snapshot(
    cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code by reference: the folder is on the deployer's sys.path, which replicas get too."""
    (folder / "by_reference.py").write_text(
        "import serving\n"
        "@serving.deployment\n"
        "class Referred:\n"
        "    def __call__(self, request):\n"
        "        return __file__\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    from by_reference import Referred  # type: ignore[import-not-found]

    options = {"runtime_env": {"working_dir": str(folder)}}
    with cluster.running(Referred.options(ray_actor_options=options).bind()):
        file = Path(cluster.get().text)
    assert file.name == "by_reference.py"
    assert file.parent != folder
    sys.modules.pop("by_reference")


def test_py_modules_are_imported_and_variables_are_expanded(
    cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    @serving.deployment(
        ray_actor_options={
            "runtime_env": {
                "py_modules": [str(folder / "flavour.py"), str(tmp_path / "helpers")],
                "env_vars": {"PATH": "/mine:${PATH}", "FLAVOUR": "${NOT_SET}mint"},
            }
        }
    )
    def modules(request: object) -> list[str]:
        import flavour
        import helpers.inner  # type: ignore[import-not-found]

        return [flavour.NAME, helpers.inner.VALUE, os.environ["PATH"], os.environ["FLAVOUR"]]

    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").touch()
    (tmp_path / "helpers" / "inner.py").write_text("VALUE = 'inner'\n")

    with cluster.running(modules.bind()):
        answer = cluster.get().json()
    assert answer == ["mint", "inner", f"/mine:{os.environ['PATH']}", "mint"]


def test_folder_that_is_missing_is_told_before_anything_starts(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = {process.pid for process in descendants(os.getpid())}

    with pytest.raises(ValueError, match=f"working_dir': {tmp_path}/nowhere does not exist"):
        serving.run(in_folder(tmp_path / "nowhere"))

    assert {process.pid for process in descendants(os.getpid())} == before
    assert not serving.status().applications


def test_package_that_was_lost_is_told_with_its_path(cluster: Cluster, folder: Path) -> None:
    with cluster.running(in_folder(folder)):
        (one, _) = answers(cluster).values()
        package = Path(one["cwd"])
        package.rename(package.with_name("elsewhere"))
        for replica in replicas("root"):
            replica.kill()

        def is_told() -> bool:
            message = serving.status().applications["root"].message
            return f"No such file or directory: '{package}'" in message

        until(is_told)
        package.with_name("elsewhere").rename(package)
        answers(cluster)


def test_large_folder_arrives(cluster: Cluster, folder: Path) -> None:
    (folder / "data.txt").write_text("x" * 20_000_000)
    with cluster.running(in_folder(folder)):
        assert len(cluster.get().json()["data"]) == 20_000_000
