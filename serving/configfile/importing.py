"""Importing applications in fresh processes, and what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from serving import lifeline
from serving.configfile.lookup import missing_files
from serving.configfile.schema import ServeApplicationSchema, given
from serving.exceptions import ServingError
from serving.v1 import controller_pb2 as pb

_KILLED_WITHIN_S = 5.0


class ApplicationImportError(ServingError):
    """An application cannot be imported, or does not fit what is asked of it."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path
        """What of the application's section is wrong."""


@dataclass(frozen=True)
class Wanted:
    """An application to import."""

    application: dict[str, Any]
    """Its section of a config, with name, route_prefix and import_path."""
    folders: tuple[str, ...]
    """To import from, in order."""
    salt: str = ""
    """With another one it is another version, even where its code seems the same."""
    answers_grpc: bool = False
    """Whether the cluster does for which it is imported."""


@dataclass(frozen=True)
class Imported:
    """An application as it can be deployed."""

    spec: pb.ApplicationSpec
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The options that each deployment has in the code, by their names."""


def wanted(
    application: ServeApplicationSchema,
    app_dir: Path,
    base: Path,
    salt: str = "",
    *,
    answers_grpc: bool = False,
) -> Wanted:
    """What to import for an application of a config in the folder `base`."""
    section = given(application)
    section |= {"name": application.name, "route_prefix": application.route_prefix}
    section["import_path"] = application.import_path
    folders = [str(app_dir.absolute())]
    if runtime_env := section.get("runtime_env"):
        section["runtime_env"] = _from_folder(runtime_env, base)
        folders = [*_import_folders(section["runtime_env"]), *folders]
    section["deployments"] = [
        _deployment(given(deployment), base) for deployment in application.deployments
    ]
    return Wanted(section, tuple(folders), salt, answers_grpc)


def _deployment(section: dict[str, Any], base: Path) -> dict[str, Any]:
    resources = section.get("ray_actor_options") or {}
    if "runtime_env" in resources:
        resources = {**resources, "runtime_env": _from_folder(resources["runtime_env"], base)}
        section["ray_actor_options"] = resources
    return section


def _from_folder(runtime_env: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same with its paths absolute."""
    found = dict(runtime_env)
    if found.get("working_dir"):
        found["working_dir"] = _absolute(found["working_dir"], base)
    if found.get("py_modules"):
        found["py_modules"] = [_absolute(module, base) for module in found["py_modules"]]
    return found


def _absolute(path: str, base: Path) -> str:
    return os.path.abspath(base / Path(path).expanduser())


def _import_folders(runtime_env: dict[str, Any]) -> list[str]:
    """Where the modules of a runtime_env are found: archives are folders to Python."""
    folders = [runtime_env["working_dir"]] if runtime_env.get("working_dir") else []
    for module in runtime_env.get("py_modules") or []:
        is_archive = module.endswith((".zip", ".whl"))
        folders.append(module if is_archive else os.path.dirname(module))
    return folders


def import_all(
    applications: Iterable[Wanted], *, timeout_s: float
) -> Iterator[Imported | ApplicationImportError]:
    """Imports applications, a few at a time, each in a process of its own that ends with this one.

    Yields what became of each, in order. One whose files are not there is not imported.
    """
    deadline = time.monotonic() + timeout_s
    left = deque(applications)
    running: deque[_Import] = deque()
    try:
        while left or running:
            while left and len(running) < (os.cpu_count() or 1):
                running.append(_Import(left.popleft()))
            yield running[0].result(deadline)
            running.popleft().close()
    finally:
        for each in running:
            each.close()


def import_one(application: Wanted, *, timeout_s: float) -> Imported:
    """Imports one application. Raises ApplicationImportError."""
    (found,) = import_all([application], timeout_s=timeout_s)
    if isinstance(found, ApplicationImportError):
        raise found
    return found


def _holds(section: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(section, dict) or key not in section:
            return False
        section = section[key]
    return bool(path)


class _Import:
    """A process that imports one application."""

    def __init__(self, application: Wanted) -> None:
        self._wanted = application
        self._lifeline_read, self._lifeline = os.pipe()
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        try:
            request = {
                "application": application.application,
                "folders": application.folders,
                "salt": application.salt,
                "answers_grpc": application.answers_grpc,
            }
            self._file.write(json.dumps(request).encode())
            self._file.seek(0)
            self._process = self._started()
        except BaseException:
            self._close_files()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        runtime_env = self._wanted.application.get("runtime_env") or {}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "serving.importer", str(self._file.fileno())],
            env={
                **os.environ,
                **runtime_env.get("env_vars", {}),
                lifeline.FD_VARIABLE: str(self._lifeline_read),
            },
            cwd=runtime_env.get("working_dir") if self._has_folder else None,
            pass_fds=(self._lifeline_read, self._file.fileno()),
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for this process, which then ends that one.
            start_new_session=True,
        )

    @property
    def _has_folder(self) -> bool:
        folder = (self._wanted.application.get("runtime_env") or {}).get("working_dir")
        return folder is not None and os.path.isdir(folder)

    def result(self, deadline: float) -> Imported | ApplicationImportError:
        for missing in missing_files(self._wanted.application):
            return ApplicationImportError(missing.message, missing.path)
        import_path = self._wanted.application["import_path"]
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return ApplicationImportError(
                f"{import_path!r} was not imported in time: a module does not return",
                ("import_path",),
            )
        if code != 0:
            return ApplicationImportError(
                f"the process that imported {import_path!r} ended with code {code}",
                ("import_path",),
            )
        self._file.seek(0)
        found = json.loads(self._file.readline())
        if "error" in found:
            return ApplicationImportError(found["error"], self._place(found["path"]))
        return Imported(pb.ApplicationSpec.FromString(self._file.read()), found["given"])

    def _place(self, path: list[str]) -> tuple[str | int, ...]:
        """Of what the importer tells: a deployment's option may stand in its section, or in the
        application's, or in the code alone."""
        if path[0] != "deployments":
            return tuple(path)
        application, (_, name, *option) = self._wanted.application, path
        names = [section["name"] for section in application["deployments"]]
        if not option:
            return ("deployments", names.index(name), "name")
        if name in names and _holds(application["deployments"][names.index(name)], option):
            return ("deployments", names.index(name), *option)
        if _holds(application, option[1:]):
            return tuple(option[1:])
        return ("import_path",)

    def close(self) -> None:
        """Ends the process if it still runs."""
        self._close_files()
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_WITHIN_S)

    def _close_files(self) -> None:
        for fd in (self._lifeline_read, self._lifeline):
            os.close(fd)
        self._file.close()
