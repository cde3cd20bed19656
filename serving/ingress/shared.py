"""An app that several replicas in one process serve, each with an instance of its own.

In a process of its own, a replica binds the routes of the app to its instance. Where several share
a process (local testing) they share the app too, the user's very object: its routes are then given
functions that call the method on the instance of the replica whose request it is. Once the last of
them has ended, the app has the routes that it had before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from serving.ingress.routes import saved

_lock = threading.RLock()
_loans: dict[int, _Loan] = {}


class _Loan:
    """An app in use, by the replicas of one class."""

    def __init__(self, app: object, cls: type) -> None:
        self.app = app
        self.cls = cls
        self.users = 0
        self.restore = saved(app)


def borrow(app: object, cls: type) -> Callable[[], None]:
    """Notes that a replica of `cls` uses the app, and gives what ends that; to be called before the
    constructor. Raises TypeError where replicas of another class use it."""
    with _lock:
        if id(app) not in _loans:
            _loans[id(app)] = _Loan(app, cls)
        loan = _loans[id(app)]
        if loan.cls is not cls:
            raise TypeError(
                f"{cls.__qualname__} and {loan.cls.__qualname__} serve one app, and run in one "
                "process: give @serving.ingress a function that makes the app, or test them apart"
            )
        loan.users += 1
    returned = False

    def give_back() -> None:
        nonlocal returned
        with _lock:
            if not returned:
                returned = True
                loan.users -= 1
                if not loan.users:
                    del _loans[id(app)]
                    loan.restore()

    return give_back
