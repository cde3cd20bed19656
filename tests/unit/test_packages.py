"""Packages: what is in them, and what names them."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from serving import packages
from serving.packages import PackageError


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def zipped(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def unpacked(source: Path, to: Path, *, is_module: bool = False) -> dict[str, str | None]:
    """What arrives, by name; None: a folder."""
    archive = b"".join(packages.chunks(source, is_module=is_module))
    packages.unpack(io.BytesIO(archive), to)
    return {
        str(path.relative_to(to)): None if path.is_dir() else path.read_text()
        for path in to.rglob("*")
    }


def test_folder_arrives_as_it_was(tmp_path: Path) -> None:
    files = {"a.py": "a", "b/c.txt": "c" * 3_000_000, "b/ä ö.txt": "", "d/" + "e" * 200: "long"}
    source = make(tmp_path / "source", files)
    (source / "empty").mkdir()

    assert unpacked(source, tmp_path / "to") == {**files, "b": None, "d": None, "empty": None}


def test_digest_tells_contents_and_nothing_else(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"b.py": "b", "a.py": "a"})
    other = make(tmp_path / "other", {"a.py": "a", "b.py": "b"})
    os.utime(other / "a.py", (0, 0))
    digest = packages.digest(one, is_module=False)

    assert packages.is_digest(digest)
    assert packages.digest(other, is_module=False) == digest
    (other / "a.py").write_text("A")
    assert packages.digest(other, is_module=False) != digest
    (other / "a.py").write_text("a")
    (other / "a.py").rename(other / "c.py")
    assert packages.digest(other, is_module=False) != digest


def test_zip_is_what_is_in_it(tmp_path: Path) -> None:
    files = {"a.py": "a", "b/c.py": "c"}
    archive = zipped(tmp_path / "code.zip", files)

    assert unpacked(archive, tmp_path / "to") == {**files, "b": None}


def test_module_folder_keeps_its_name(tmp_path: Path) -> None:
    source = make(tmp_path / "mine", {"__init__.py": "", "a.py": "a"})

    arrived = unpacked(source, tmp_path / "to", is_module=True)

    assert arrived == {"mine": None, "mine/__init__.py": "", "mine/a.py": "a"}


def test_module_file_and_wheel_arrive(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1")
    wheel = zipped(tmp_path / "other-1.0-py3-none-any.whl", {"other/__init__.py": "y = 2"})

    assert unpacked(tmp_path / "mine.py", tmp_path / "one", is_module=True) == {"mine.py": "x = 1"}
    assert "other/__init__.py" in unpacked(wheel, tmp_path / "two", is_module=True)


def test_links_are_followed_unless_they_lead_back_or_nowhere(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", {"data.txt": "data"})
    source = make(tmp_path / "source", {"a.py": "a"})
    (source / "linked").symlink_to(outside)
    (source / "file.txt").symlink_to(outside / "data.txt")
    (source / "loop").symlink_to(source)
    (source / "gone").symlink_to(tmp_path / "nothing")
    os.mkfifo(source / "pipe")

    assert unpacked(source, tmp_path / "to") == {
        "a.py": "a",
        "file.txt": "data",
        "linked": None,
        "linked/data.txt": "data",
    }


def test_folders_without_code_are_left_out(tmp_path: Path) -> None:
    left_out = {f"{name}/x": "x" for name in packages.LEFT_OUT}
    source = make(tmp_path / "source", {"a.py": "a", **left_out, "b/__pycache__/x": "x"})

    assert unpacked(source, tmp_path / "to") == {"a.py": "a", "b": None}


def test_executables_stay_so(tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"run.sh": "#!/bin/sh", "data": ""})
    (source / "run.sh").chmod(0o700)
    unpacked(source, tmp_path / "to")

    assert os.access(tmp_path / "to" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "to" / "data", os.X_OK)


@pytest.mark.parametrize(
    ("name", "is_module", "message"),
    [
        ("missing", False, "missing does not exist"),
        ("code.tar", False, "code.tar is none of what it may be: a folder or a .zip"),
        ("code.py", False, "code.py is none of what it may be"),
        ("code.tar", True, "none of what it may be: a folder, a .zip, a .whl or a .py file"),
        ("bad.zip", False, "bad.zip is no zip file"),
        ("escaping.zip", False, "has a file outside of itself: ../up.py"),
    ],
)
def test_what_is_no_package_is_told(
    tmp_path: Path, name: str, is_module: bool, message: str
) -> None:
    make(tmp_path, {"code.tar": "", "code.py": "", "bad.zip": "bad"})
    zipped(tmp_path / "escaping.zip", {"../up.py": ""})

    with pytest.raises(PackageError, match=message):
        packages.digest(tmp_path / name, is_module=is_module)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"secret": ""})
    (source / "secret").chmod(0)

    with pytest.raises(PackageError, match="source/secret: Permission denied"):
        packages.digest(source, is_module=False)


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_BYTES", 2**20)
    source = make(tmp_path / "source", {"a": "a" * 2**19, "b": "b" * 2**19, "c": ""})

    with pytest.raises(PackageError, match="source has more than 1 MiB"):
        packages.digest(source, is_module=False)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no package"):
        packages.unpack(io.BytesIO(b"x" * 1024), tmp_path / "to")
