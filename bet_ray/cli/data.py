"""`bet-ray data`."""

from pathlib import Path
from typing import Annotated

import typer

from bet_ray.cli import download
from bet_ray.cli.console import console

app = typer.Typer(help="Make, fetch and look at demonstrations.", no_args_is_help=True)
app.command("download", epilog=download.EXAMPLES)(download.download)


@app.command(epilog="Example: `bet-ray data generate pointmass2 --episodes 2000 --out data/pointmass2.parquet`")
def generate(
    task: Annotated[str, typer.Argument(help="pointmass1 or pointmass2.")],
    episodes: Annotated[int, typer.Option(min=2, help="Demonstrations to make; 20,000 as published.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of routes and noise.")] = 0,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation of the noise on each point.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Parquet file. Default: data/TASK.parquet.")] = None,
) -> None:
    """Let a scripted demonstrator make a data set."""
    from bet.config import ConfigError, did_you_mean
    from bet.data.store import save_episodes
    from bet.envs.pointmass import PointMassVersion
    from bet.oracles.pointmass import demonstrations

    if task not in list(PointMassVersion):
        raise ConfigError(f"no demonstrator for {task!r}{did_you_mean(task, list(PointMassVersion))}")
    path = out or Path("data") / f"{task}.parquet"
    made = demonstrations(PointMassVersion(task), episodes, seed, noise)
    save_episodes(made, path)
    console.print(f"{len(made)} demonstrations, {len(made.observations):,} steps, digest {made.digest[:12]} in {path}")
    console.print(f"next: bet-ray train {task} data.path={path}")


@app.command(epilog="Example: `bet-ray data info pusht`")
def info(
    task: Annotated[str, typer.Argument(help="Task whose demonstrations to look at.")],
    path: Annotated[str | None, typer.Argument(help="File or folder. Default: the task's own place.")] = None,
) -> None:
    """Check demonstrations and say what they hold."""
    from bet import tasks
    from bet.config import make_config

    found = tasks.get(task)
    episodes = found.load(make_config(task, {"data.path": path}).data)
    lengths = episodes.lengths
    console.print(f"{task}: {found.summary}")
    console.print(
        f"{len(episodes)} demonstrations, {len(episodes.observations):,} steps, digest {episodes.digest[:12]}"
    )
    console.print(f"lengths {lengths.min()} to {lengths.max()}, mean {lengths.mean():.1f}")
    for name, array in (("observation", episodes.observations), ("action", episodes.actions)):
        bounds = ", ".join(f"{low:.4g}..{high:.4g}" for low, high in zip(array.min(0), array.max(0), strict=True))
        console.print(f"{name} ({array.shape[1]}): {bounds}")
