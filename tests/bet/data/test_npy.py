"""Single `.npy` files: what is written reads back, and anything else is one clear line."""

from pathlib import Path

import numpy as np
import pytest

from bet.data.episodes import DataError
from bet.data.npy import read_npy, write_npy


def complaint(path: Path, shape: tuple[str | int, ...] = ("E", 2)) -> str:
    with pytest.raises(DataError) as error:
        read_npy(path, shape)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_written_reads_back(tmp_path: Path, dtype: type, order: str) -> None:
    array = np.asarray(np.arange(6).reshape(3, 2), dtype=dtype, order=order)  # pyright: ignore[reportCallIssue, reportArgumentType]
    write_npy(tmp_path / "a.npy", array)
    read = read_npy(tmp_path / "a.npy", ("E", 2))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), array)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("keep", [0, 5, 60, 130, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    write_npy(tmp_path / "a.npy", np.zeros((3, 2)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    assert "not a readable .npy file" in complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(10**12, 2), (10**30, 2)])
def test_a_shape_beyond_all_memory_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    assert "not a readable .npy file" in complaint(tmp_path / "a.npy")


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0], None], dtype=object), allow_pickle=True)
    assert "holds pickled objects, which are never loaded" in complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 2, 1), ()])
def test_another_shape_is_refused_with_the_one_expected(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_npy(tmp_path / "a.npy", np.zeros(shape))
    assert f"has shape {shape}, expected (E, 2)" in complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.full((3, 2), "a"), np.zeros((3, 2), complex), np.zeros((3, 2), "datetime64[s]")])
def test_anything_but_real_numbers_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    write_npy(tmp_path / "a.npy", array)
    assert "expected numbers" in complaint(tmp_path / "a.npy")
