"""File operations: all or nothing, never over an existing file, never outside the folder."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.common import files


def test_a_written_file_has_the_new_content_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "journal.json"
    files.write_atomically(target, b"old")
    files.write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["journal.json"]  # noqa: PTH208
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_content_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.fixture(params=["renameat2", "link"])
def _rename_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways on a real file system; the second as on one that lacks the system call."""
    if request.param == "link":
        monkeypatch.setattr(files, "_renameat2", lambda source, target: False)


@pytest.mark.usefixtures("_rename_way")
def test_a_rename_moves_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    files.rename_no_replace(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.usefixtures("_rename_way")
def test_a_rename_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        files.rename_no_replace(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == b"a"
    assert (tmp_path / "b").read_bytes() == b"b"


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.rename_no_replace(tmp_path / "gone", tmp_path / "b")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "gone")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "a\nb", "x" * 256])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"plain file name|longer"):
        files.inside("/pool", name)


def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="absolute"):
        files.inside("pool", "a")


@given(st.text(max_size=300))
def test_whatever_the_name_the_path_stays_in_the_folder(name: str) -> None:
    try:
        path = files.inside("/pool", name)
    except (ValueError, UnicodeEncodeError):
        return
    assert os.path.dirname(os.path.normpath(path)) == "/pool"  # noqa: PTH120
