"""Videos of simulators: pictures, tiles that label them, grids of tiles, files."""

import tempfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio.v2 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from bet.errors import UsageError
from bet.files import replacing
from bet_ray.page.style import INK

FPS = 10  # where a simulator does not say
LINE, STRIP = 28, 10  # pixels above a picture: the height of a line of its label, and of a strip
NARROWEST = 256  # pixels that a label needs
_ENDINGS = (".mp4", ".gif")
_PAPER = "#ffffff"
_rgb = cache(ImageColor.getrgb)


class Film:
    """Pictures (height, width, 3) of one size, packed: plain ones of a long episode are hundreds of megabytes."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._shape: tuple[int, ...] = ()

    def add(self, picture: NDArray[np.uint8]) -> None:
        self._shape = picture.shape
        self._packed.append(zlib.compress(picture.tobytes(), level=1))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        return np.frombuffer(zlib.decompress(self._packed[place]), np.uint8).reshape(self._shape)


@dataclass(frozen=True)
class Line:
    """A line of a label: a block of colour, what it stands for, and more to the right."""

    colour: str
    left: str
    right: str
    ink: str = INK
    """Of what is to the right."""


def tile(
    picture: NDArray[np.uint8], label: Sequence[Line], strip: Sequence[str] = (), *, over: bool = False
) -> NDArray[np.uint8]:
    """A picture under its label; `strip` are colours from left to right between them. What is over fades.

    A picture too narrow for a label is enlarged by a whole factor.
    """
    shown = Image.fromarray(picture)
    shown = shown.resize([side * -(-NARROWEST // shown.width) for side in shown.size], Image.Resampling.NEAREST)
    top = LINE * len(label) + (STRIP if strip else 0)
    drawn = Image.new("RGB", (shown.width, top + shown.height), _PAPER)
    drawn.paste(Image.blend(shown, Image.new("RGB", shown.size, _PAPER), 0.55) if over else shown, (0, top))
    if strip:
        row = np.array([_rgb(colour) for colour in strip], np.uint8)[None]  # (1, n, 3)
        thick = Image.fromarray(row).resize((shown.width, STRIP - 2), Image.Resampling.NEAREST)
        drawn.paste(thick, (0, LINE * len(label)))
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=15)
    for place, line in enumerate(label):
        middle = (place + 0.5) * LINE
        pen.rectangle((0, place * LINE, 10, (place + 1) * LINE - 2), fill=line.colour)
        pen.text((18, middle), line.left, fill=INK, font=font, anchor="lm")
        pen.text((shown.width - 8, middle), line.right, fill=line.ink, font=font, anchor="rm")
    return np.asarray(drawn)


def grid(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles (h, w, 3) in rows, as nearly square as can be, with a little room between them; even sides, for H.264."""
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    (height, width, _), gap = tiles[0].shape, 8
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, one in enumerate(tiles):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        whole[top : top + height, left : left + width] = one
    return np.pad(whole, ((0, whole.shape[0] % 2), (0, whole.shape[1] % 2), (0, 0)), constant_values=255)


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
