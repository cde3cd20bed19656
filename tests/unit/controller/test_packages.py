"""The packages that the controller keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serving import packages
from serving.controller.packages import KEPT_S, PackageStore
from serving.packages import PackageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "module.py").write_text("x = 1")
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


async def sent(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def stored(store: PackageStore, source: Path) -> str:
    digest = packages.digest(source, is_module=False)
    await store.receive(digest, sent(packages.chunks(source, is_module=False)))
    return digest


async def test_package_is_missing_until_it_was_received(tmp_path: Path, source: Path) -> None:
    store = PackageStore(tmp_path / "packages")
    digest = packages.digest(source, is_module=False)
    assert store.missing([digest, digest]) == [digest]

    assert await stored(store, source) == digest
    assert await stored(store, source) == digest

    assert store.missing([digest]) == []
    assert (store.path(digest) / "module.py").read_text() == "x = 1"
    assert names_in(tmp_path / "packages") == {digest}


async def test_package_may_be_received_many_times_at_once(tmp_path: Path, source: Path) -> None:
    for number in range(20):
        store = PackageStore(tmp_path / f"packages-{number}")
        (digest,) = set(await asyncio.gather(*(stored(store, source) for _ in range(4))))

        assert names_in(store.path(digest).parent) == {digest}


@pytest.mark.parametrize("digest", ["0" * 64, "../up", ""])
async def test_package_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, source: Path, digest: str
) -> None:
    store = PackageStore(tmp_path / "packages")

    with pytest.raises(PackageError, match="changed meanwhile|no digest"):
        await store.receive(digest, sent(packages.chunks(source, is_module=False)))

    assert store.missing([digest]) == [digest]
    assert names_in(tmp_path / "packages") == set()


async def test_package_that_is_too_large_is_refused_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_BYTES", 2**20)
    taken: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(2**18)
            yield bytes(2**18)

    with pytest.raises(PackageError, match="has 1 MiB at most"):
        await PackageStore(tmp_path / "packages").receive("0" * 64, endless())
    assert sum(taken) <= 2**20 + 2**18


async def test_what_nothing_refers_to_is_removed_after_a_while(
    tmp_path: Path, source: Path
) -> None:
    store = PackageStore(tmp_path / "packages")
    wanted = await stored(store, source)
    (source / "module.py").write_text("x = 2")
    unwanted = await stored(store, source)

    assert store.set_aside({wanted}, time.time()) == []
    assert store.missing([wanted, unwanted]) == []
    aside = store.set_aside({wanted}, time.time() + KEPT_S)

    assert store.missing([wanted, unwanted]) == [unwanted]
    assert len(aside) == 1
    assert store.set_aside({wanted}, time.time() + KEPT_S) == aside  # one that was killed meanwhile


async def test_package_that_was_asked_for_stays_for_a_while(tmp_path: Path, source: Path) -> None:
    store = PackageStore(tmp_path / "packages")
    digest = await stored(store, source)
    later = time.time() + KEPT_S / 2
    assert store.missing([digest]) == []

    assert store.set_aside(set(), later) == []
