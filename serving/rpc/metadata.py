"""Metadata of gRPC calls as it travels: one flat list of bytes, key, value, key, value, …"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Metadata = tuple[tuple[str, str | bytes], ...]
"""As grpcio has it: the values of keys that end in "-bin" are bytes, all others text."""

MAX_TRAILERS = 4096
"""Bytes of the trailing metadata of a call, at most. Clients take 8 KiB of headers as a rule, and
where there are more they see an error of the transport and no status at all."""
MAX_DETAILS = 1024
"""Bytes of the details of a status, at most: they are a trailer, too."""
ENTRY_OVERHEAD = 32
"""What an entry counts beside its bytes (RFC 7541, section 4.1)."""


def flatten(metadata: Iterable[tuple[str, str | bytes]]) -> list[bytes]:
    """As it travels."""
    return [
        part if isinstance(part, bytes) else part.encode() for entry in metadata for part in entry
    ]


def unflatten(flat: Sequence[bytes]) -> Metadata:
    """As grpcio has it. Raises ValueError where it is not made of pairs."""
    if len(flat) % 2:
        raise ValueError("metadata comes in pairs of key and value")
    keys = [key.decode() for key in flat[::2]]
    return tuple(
        (key, value if key.endswith("-bin") else value.decode())
        for key, value in zip(keys, flat[1::2], strict=True)
    )


def size(metadata: Iterable[tuple[str, str | bytes]]) -> int:
    """Bytes that it takes as headers, before they are compressed."""
    return sum(len(part) for part in flatten(metadata)) + ENTRY_OVERHEAD * len(tuple(metadata))


def fitted(metadata: Metadata, max_bytes: int = MAX_TRAILERS) -> Metadata:
    """Those entries that together take ``max_bytes`` at most: the largest are left out first."""
    kept = list(metadata)
    while size(kept) > max_bytes:
        kept.remove(max(kept, key=lambda entry: size((entry,))))
    return tuple(kept)


def capped(details: str) -> str:
    """``details`` of MAX_DETAILS bytes at most, cut where a character ends."""
    encoded = details.encode(errors="replace")
    if len(encoded) <= MAX_DETAILS:
        return encoded.decode()
    return encoded[: MAX_DETAILS - 3].decode(errors="ignore") + "…"
