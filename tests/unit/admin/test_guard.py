from __future__ import annotations

import stat
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from serving.admin.guard import kept_token, refusal

NAMES = frozenset({"localhost", "machine"})


def status(*headers: tuple[str, str], token: str = "") -> int:
    """What the guard answers; 200 where it lets the request through."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    refused = refusal(Headers(raw=raw), token, NAMES)
    return refused.status if refused else 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8270", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8270", 200),
        ("[::1]:8270", 200),
        ("machine:1", 200),
        ("evil.example:8270", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("", 403),
        ("127.0.0.1:port", 403),
    ],
)
def test_host_that_is_none_of_ours_is_refused(host: str, expected: int) -> None:
    assert status(("host", host)) == expected


def test_request_needs_one_host() -> None:
    assert status() == 400
    assert status(("host", "localhost"), ("host", "evil.example")) == 400


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8270", 200),
        ("http://localhost:80", 403),
        ("https://localhost:8270", 403),
        ("http://127.0.0.1:8270", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost:port", 403),
    ],
)
@pytest.mark.parametrize("token", ["", "secret"], ids=["open", "with a token"])
def test_page_of_another_origin_is_refused(origin: str, expected: int, token: str) -> None:
    shown = [("authorization", "Bearer secret")] if token else []

    assert status(("host", "localhost:8270"), ("origin", origin), *shown, token=token) == expected


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("Bearer secret", 200),
        ("bearer secret", 200),
        ("Bearer wrong", 401),
        ("Bearer secret2", 401),
        ("Bearer", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer schlüssel", 401),
        ("", 401),
    ],
)
def test_token_is_required(authorization: str, expected: int) -> None:
    raw = [(b"host", b"service.example"), (b"authorization", authorization.encode("latin-1"))]
    refused = refusal(Headers(raw=raw), "secret", NAMES)

    assert (refused.status if refused else 200) == expected


def test_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "token"

    token = kept_token(path)

    assert len(token) >= 32
    assert kept_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)

    with pytest.raises(PermissionError, match="chmod 600"):
        kept_token(path)


def test_empty_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)

    with pytest.raises(ValueError, match="is empty"):
        kept_token(path)
