"""How code and constructor arguments travel to replicas: by reference if they can, else by value.

__init__.py      capture, load, dumps, loads, refuse, fingerprint
references.py    what a fresh process can import, and finds to be this very object; names of code
pickler.py       cloudpickle, with reducers for what it cannot send or what would not load
models.py        pydantic models, as what they were made from
webapps.py       FastAPI's and Starlette's objects likewise
loading.py       what is left to do once all is loaded
steady.py        sets that are pickled the same whatever their order
blame.py         which object could not be sent, and where it hangs
unportable.py    values that pickling would let through as something else
sources.py       the modules of the user's, as they were when they were deployed
fingerprints.py  the hash by which two versions of the same code are told apart
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any

from serving.code import blame, loading, references, sources, unportable
from serving.code.fingerprints import fingerprint
from serving.code.pickler import CodePickler
from serving.code.references import name_of
from serving.exceptions import CodeNotPortableError
from serving.v1.controller_pb2 import Code

__all__ = [
    "capture",
    "dumps",
    "fingerprint",
    "load",
    "loads",
    "name_of",
    "refuse",
    "sources",
    "unportable",
]


def capture(obj: object) -> Code:
    """A class, function or other callable in the form in which a replica can load it.

    By reference where a fresh process can import it and finds this very object, also inside a
    `Deployment` of that name; else by value. A `Deployment` stands for what it wraps.

    Raises CodeNotPortableError, naming what cannot be sent, where it hangs, and the cure.
    """
    obj = references.unwrap(obj)
    path = references.path_of(obj)
    sys_path = [os.path.abspath(entry) for entry in sys.path]
    if path is not None:
        return Code(import_path=path, sys_path=sys_path)
    return Code(pickled=dumps(obj), sys_path=sys_path)


def load(code: Code, *, first: Iterable[str] = ()) -> Any:
    """The object that was captured, in a process that is to run it.

    `sys.path` becomes these folders and that of the process that captured it, followed by what it
    had besides.
    """
    entries = dict.fromkeys([*first, *code.sys_path, *sys.path])
    sys.path[:] = entries
    if code.import_path:
        return references.resolve(code.import_path)
    return loads(code.pickled)


def dumps(
    value: object,
    *,
    replace: Callable[[object], object | None] | None = None,
    buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
) -> bytes:
    """Any value, such as constructor arguments. Raises CodeNotPortableError as `capture` does.

    `replace` is asked about the objects in it: what it gives is sent instead, unless it is None.
    `buffer_callback` is that of `pickle.dumps`.
    """
    with io.BytesIO() as file:
        pickler = CodePickler(file, replace, buffer_callback)
        try:
            pickler.dump(value)
        except Exception as error:  # whatever a `__reduce__` raises
            raise CodeNotPortableError(blame.explain(value, pickler.latest, error)) from error
        finally:
            pickler.close()
        return file.getvalue()


def refuse(value: object, culprit: object) -> CodeNotPortableError:
    """The error where `unportable` has found the culprit in the value."""
    return CodeNotPortableError(
        blame.explain(value, culprit, TypeError("it belongs to this process"))
    )


def loads(data: bytes) -> Any:
    """The inverse of `dumps`. Only for data from a trusted process: loading runs code."""
    return loading.loads(data)
