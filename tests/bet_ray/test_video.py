"""Pictures are kept, labelled and put side by side; videos are written whole, frame by frame, as mp4 or gif."""

from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from bet.errors import UsageError
from bet_ray.video import LINE, NARROWEST, STRIP, Film, Line, check_ending, grid, tile, write_video

FRAMES = [np.full((66, 64, 3), shade, np.uint8) for shade in range(0, 240, 20)]


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_every_frame_comes_back_in_its_size(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"v.{ending}"
    write_video(iter(FRAMES), path)
    back = iio.imread(path)
    assert back.shape == (len(FRAMES), 66, 64, 3)
    np.testing.assert_allclose(back.mean(axis=(1, 2, 3)), [frame.mean() for frame in FRAMES], atol=4)


@pytest.mark.parametrize("name", ["v.avi", "v", "v.MP4"])
def test_another_ending_is_refused_before_there_are_frames(name: str) -> None:
    with pytest.raises(UsageError, match=r"a video is \.mp4 or \.gif"):
        check_ending(Path(name))


def test_frames_that_fail_leave_the_video_that_was_there(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield FRAMES[0]
        raise RuntimeError("no more")

    path = tmp_path / "v.mp4"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="no more"):
        write_video(broken(), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_film_gives_back_every_pixel() -> None:
    film, noise = Film(), np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    pictures = [noise, noise[::-1, ::-1]]  # in memory as it is, and not
    for picture in pictures:
        film.add(picture)
    assert len(film) == 2
    for place, picture in enumerate(pictures):
        np.testing.assert_array_equal(film[place], picture)


def test_a_label_has_a_block_of_each_colour_and_a_strip_of_equal_parts_below() -> None:
    picture = np.full((40, 300, 3), 7, np.uint8)
    made = tile(picture, [Line("#ff0000", "a", "b"), Line("#0000ff", "c", "d")], ["#00ff00", "#000000", "#ffff00"])
    top = 2 * LINE + STRIP
    assert made.shape == (top + 40, 300, 3)
    np.testing.assert_array_equal(made[top:], picture)
    assert made[5, 5].tolist() == [255, 0, 0]
    assert made[LINE + 5, 5].tolist() == [0, 0, 255]
    strip = made[2 * LINE].tolist()
    assert strip == [[0, 255, 0]] * 100 + [[0, 0, 0]] * 100 + [[255, 255, 0]] * 100


def test_a_picture_too_narrow_for_a_label_is_enlarged_and_a_wide_one_is_not() -> None:
    small = np.arange(50 * 100 * 3, dtype=np.uint8).reshape(50, 100, 3)
    enlarged = tile(small, [Line("#000000", "a", "b")])[LINE:]
    np.testing.assert_array_equal(enlarged, small.repeat(3, 0).repeat(3, 1))
    wide = np.zeros((10, NARROWEST, 3), np.uint8)
    assert tile(wide, []).shape == wide.shape


def test_what_is_over_fades() -> None:
    dark = np.zeros((10, NARROWEST, 3), np.uint8)
    assert tile(dark, [], over=True).min() > 100


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (6, 3, 2), (7, 3, 3)])
def test_a_grid_is_nearly_square_and_its_sides_even(count: int, columns: int, rows: int) -> None:
    made = grid([np.full((9, 11, 3), shade, np.uint8) for shade in range(count)])
    height, width = rows * 17 - 8, columns * 19 - 8
    assert made.shape == (height + height % 2, width + width % 2, 3)
    for place in range(count):
        top, left = place // columns * 17, place % columns * 19
        assert (made[top : top + 9, left : left + 11] == place).all()
