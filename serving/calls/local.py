"""Local clusters of this process, as handles know them: by a key.

Everything that runs in one has its key in its context, and so has every handle that is made there.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

from serving.calls.caller import Caller
from serving.exceptions import ClusterError

_callers: dict[str, Caller] = {}
_key: ContextVar[str] = ContextVar("serving_local_cluster", default="")
_key_of_script = ""


def current_key() -> str:
    """Of the local cluster in which this code runs, or which the script uses; empty for none."""
    return _key.get() or _key_of_script


def caller_of(key: str) -> Caller:
    """The caller of a local cluster. Raises ClusterError where that has ended."""
    if (caller := _callers.get(key)) is None:
        raise ClusterError("the local application that this handle is of has ended")
    return caller


def register(key: str, caller: Caller) -> None:
    """A local cluster has begun."""
    _callers[key] = caller


def unregister(key: str) -> None:
    """It has ended."""
    global _key_of_script
    _callers.pop(key, None)
    if _key_of_script == key:
        _key_of_script = ""


def enter(key: str) -> None:
    """The code of this context runs in that local cluster."""
    _key.set(key)


def use_in_script(key: str) -> None:
    """Code outside of all local clusters uses that one."""
    global _key_of_script
    _key_of_script = key


def _forget() -> None:
    """In a forked child, which has none of our threads."""
    global _key_of_script
    _callers.clear()
    _key_of_script = ""


os.register_at_fork(after_in_child=_forget)
