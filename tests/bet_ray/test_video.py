"""Videos are written whole, frame by frame, as mp4 or gif."""

from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from bet.errors import UsageError
from bet_ray.video import check_ending, write_video

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
