"""`bet-ray data convert`."""

from pathlib import Path
from typing import Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import console
from bet_ray.cli.demonstrations import Demonstrations, format_of, load

EXAMPLES = "Example: `bet-ray data convert pusht_cchi_v7_replay.zarr out --to lerobot-v3.0 --observation keypoints8`"


def convert(
    source: Demonstrations,
    out: Annotated[Path, typer.Argument(help="File (parquet) or folder to write; it must not be there yet.")],
    to: Annotated[
        str,
        typer.Option(
            help="parquet, pusht-zarr, lerobot-v2.1, lerobot-v3.0, bet-blockpush, bet-kitchen or study-rollouts."
        ),
    ],
    observation: Annotated[
        str | None, typer.Option(help="Observation layout to write. Default: the one that the source has.")
    ] = None,
) -> None:
    """Write demonstrations in another format."""
    from bet.config import ConfigError, did_you_mean
    from bet.data.formats import DataFormat, save

    if to not in list(DataFormat):
        raise ConfigError(f"--to: no format {to!r}{did_you_mean(to, DataFormat)}")
    episodes = load(source, observation)
    save(episodes, out, DataFormat(to))
    size = f"{counted(len(episodes), 'demonstration')} of {episodes.task}, {counted(len(episodes.actions), 'step')}"
    console.print(f"{size}, from {format_of(episodes)} to {to} in {out}")
