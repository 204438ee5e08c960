"""A reader sees the whole of a file or folder, or nothing."""

from pathlib import Path

import pytest

from bet.files import new_folder, replacing


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    with replacing(tmp_path / "new" / "a") as file:
        file.write(b"all of it")
        assert not (tmp_path / "new" / "a").exists()
    assert (tmp_path / "new" / "a").read_bytes() == b"all of it"
    assert names(tmp_path / "new") == ["a"]


def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_whole_also_in_place_of_an_empty_one(tmp_path: Path) -> None:
    for target in (tmp_path / "deep" / "a", tmp_path / "b"):
        if target.name == "b":
            target.mkdir()
        with new_folder(target) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text("x")
            assert names(target) == []
        assert names(target) == ["inner", "inner/file"]
    assert names(tmp_path) == ["b", "b/inner", "b/inner/file", "deep", "deep/a", "deep/a/inner", "deep/a/inner/file"]


def test_a_folder_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "a") as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious").write_text("old")
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("x")
    assert names(tmp_path) == ["a", "a/precious"]
