"""Waiting for the files of an application to change."""

from __future__ import annotations

from pathlib import Path

from watchfiles import Change, PythonFilter
from watchfiles._rust_notify import RustNotify

# Changes that follow each other within this time are one.
_DEBOUNCE_MS = 200
_STEP_MS = 20


class Changes:
    """The Python files in a folder, and the file beside them if one is given, that changed from the
    moment that this object is made.

    `watchfiles.watch` would look only from the moment that it is first waited for.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        self._is_python = PythonFilter()
        self._file = file and file.resolve()
        # The folder of the file: an editor may put another one in its place.
        folders = {str(each.resolve()) for each in (folder, *([file.parent] if file else []))}
        self._watcher = RustNotify(sorted(folders), False, False, 0, True, False)

    def wait(self, timeout_s: float = 0.5) -> list[str]:
        """Returns the names of files that changed since the last call, once there are some, or
        none after the timeout."""
        found = self._watcher.watch(_DEBOUNCE_MS, _STEP_MS, int(timeout_s * 1000), None)
        if found == "signal":
            raise KeyboardInterrupt
        if isinstance(found, str):
            return []
        return sorted(
            {Path(path).name for kind, path in found if self._is_relevant(Change(kind), path)}
        )

    def _is_relevant(self, kind: Change, path: str) -> bool:
        return self._is_python(kind, path) or Path(path).resolve() == self._file
