"""Listening TCP sockets, and who holds a port that is taken."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving import lifeline

BACKLOG = 2048
_LISTEN_STATE = "0A"  # in /proc/net/tcp


class PortInUseError(OSError):
    """The port is taken; the message names it and, where it can be found, who holds it."""


def listen(host: str, port: int, count: int, *, choose: str) -> list[socket.socket]:
    """Binds `count` listening sockets to one address, among which the kernel spreads connections.

    Port 0 picks a free one. Raises PortInUseError where another process listens there already,
    even one that would share the port; its message names who, and `choose`, how to choose another.
    """
    family, address = _resolved(host, port)
    sockets: list[socket.socket] = []
    try:
        if port:
            _probe(family, address)
        for _ in range(count):
            sockets.append(_listening(family, address))
            address = sockets[0].getsockname()
    except BaseException as error:
        for bound in sockets:
            bound.close()
        if isinstance(error, OSError):
            raise _explained(error, host, port, choose) from error
        raise
    return sockets


def reserve(host: str, port: int, *, choose: str) -> socket.socket:
    """Binds a socket that never listens: it keeps a port for processes of this user that listen
    there with SO_REUSEPORT. Otherwise as `listen`."""
    family, address = _resolved(host, port)
    try:
        if port:
            _probe(family, address)
        try:
            # Without SO_REUSEADDR, so that `_probe` of others fails though nobody listens yet.
            return _bound(family, address, socket.SO_REUSEPORT)
        except OSError:
            # What is left of old connections is in the way of that.
            return _bound(family, address, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    except OSError as error:
        raise _explained(error, host, port, choose) from error


def _resolved(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """The family and the address to bind."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot listen on {host!r}, which is no address and no name of one: {error.strerror}",
        ) from None
    return family, address


def _probe(family: int, address: tuple[object, ...]) -> None:
    """Fails where the port is taken: without SO_REUSEPORT it cannot be shared."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _listening(family: int, address: tuple[object, ...]) -> socket.socket:
    bound = _bound(family, address, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    try:
        bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def _bound(family: int, address: tuple[object, ...], *options: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _explained(error: OSError, host: str, port: int, choose: str) -> OSError:
    if error.errno == errno.EADDRINUSE:
        found = holder(port)
        by = f" by process {found[0]} ({found[1]})" if found else " by another process"
        return PortInUseError(
            errno.EADDRINUSE,
            f"port {port} on {host} is in use{by}; end it, or choose another port with {choose} "
            "(0 picks a free one)",
        )
    return OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}")


def holder(port: int) -> tuple[int, str] | None:
    """Who listens on a TCP port, as (pid, command line), as far as /proc tells us.

    Of a cluster that is the script or the command that it belongs to, if it belongs to one.
    """
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        # Processes of other users hide their descriptors, and processes end while we look.
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                if os.readlink(fd) in inodes:
                    owner = _owner(process)
                    return int(owner.name), _command(owner)
    return None


def _owner(process: Path) -> Path:
    """The process on whose lifeline this one hangs, if it is one of ours; else itself."""
    while " -m serving." in _command(process) and _has_lifeline(process):
        status = (process / "stat").read_text()
        process = Path("/proc", status.rpartition(")")[2].split()[1])
    return process


def _has_lifeline(process: Path) -> bool:
    settings = (process / "environ").read_bytes().split(b"\0")
    return any(setting.startswith(f"{lifeline.FD_VARIABLE}=".encode()) for setting in settings)


def _command(process: Path) -> str:
    command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
    return command.decode(errors="replace").strip()


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN_STATE and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"
