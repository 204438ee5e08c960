"""Videos of simulators."""

import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import imageio.v2 as iio
import numpy as np
from numpy.typing import NDArray

from bet.errors import UsageError
from bet.files import replacing

FPS = 10  # where a simulator does not say
_ENDINGS = (".mp4", ".gif")


def check_ending(path: Path) -> None:
    """Raises `UsageError` for a file that `write_video` would not write: to be called before there are frames."""
    if path.suffix not in _ENDINGS:
        raise UsageError(f"{path}: a video is {' or '.join(_ENDINGS)}")


def write_video(frames: Iterable[NDArray[np.uint8]], path: Path, fps: int = FPS) -> None:
    """Write frames (height, width, 3) as mp4 (H.264) or gif, one at a time; a reader sees the whole video or none.

    Raises `UsageError` for another ending.
    """
    check_ending(path)
    if path.suffix == ".gif":
        options = {"duration": 1000 / fps, "loop": 0}
    else:
        options = {"fps": fps, "codec": "libx264", "macro_block_size": 2}  # H.264 wants even sides
    with tempfile.TemporaryDirectory() as folder:
        unfinished = Path(folder) / path.name
        with closing(iio.get_writer(unfinished, **options)) as writer:
            for frame in frames:
                writer.append_data(frame)
        with replacing(path) as file:
            file.write(unfinished.read_bytes())
