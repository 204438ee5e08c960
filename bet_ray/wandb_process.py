"""The process that keeps one run of Weights & Biases, started by `bet_ray.tracking`.

Reads pickled messages from its parent on stdin until the last one or the end of the parent, and answers `ok`, or a line
that says what is wrong, once the run is open and once it is closed. What wandb prints goes where stderr goes.
"""

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from bet_ray.video import write_video

STEP = "epoch"


def main() -> None:
    if os.fork():
        os._exit(0)  # Ray kills the children of a worker that it stops; a grandchild can finish its run
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # wandb's service inherits it, and would hold our parent's pipe open
    try:
        messages = _messages(orders)
        kind, opening = next(messages)
        assert kind == "open"
        run = _open(opening)
        print("ok", file=answers)
        for kind, *what in messages:
            _act(run, kind, what)
        _finish(run)
        print("ok", file=answers)
    except BaseException as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        print(f"{type(error).__name__}: {reason}", file=answers)
        os._exit(1)  # wandb's exit hooks would try again, at length
    os._exit(0)


def _finish(run: Any) -> None:
    import wandb

    run.finish()
    wandb.teardown()  # waits for the service, which writes to the end


def _messages(orders: BinaryIO) -> Iterator[tuple[Any, ...]]:
    while True:
        try:
            message = pickle.load(orders)  # from our parent alone
        except EOFError:
            return
        if message == ("close",):
            return
        yield message


def _open(opening: dict[str, Any]) -> Any:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=opening["seconds"],
        disable_git=True,  # manifest.json names our revision; this would be that of the working folder
        disable_code=True,
        save_code=False,
        x_disable_meta=True,  # of this process, not of the one that trains
        x_disable_stats=True,
    )
    if opening["mode"] == "online" and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("not logged in; run `wandb login`, set WANDB_API_KEY, or use track.wandb=offline")
    folder: Path = opening["run"]
    run = wandb.init(
        dir=folder,
        mode=opening["mode"],
        project=opening["project"],
        id=opening["id"],
        resume="allow" if opening["mode"] == "online" else None,  # offline, `wandb sync` joins what has one id
        name=f"{folder.name} {opening['title']}",
        group=folder.name,
        job_type=opening["kind"],
        config=opening["settings"],
        settings=settings,
    )
    if not Path(run.dir).is_relative_to(folder):
        raise RuntimeError(f"writes to {run.dir} in place of {folder}")
    run.define_metric(STEP, hidden=True)
    run.define_metric("*", step_metric=STEP)  # wandb's own steps cannot come in any order
    return run


def _act(run: Any, kind: str, what: list[Any]) -> None:
    import wandb

    match kind, what:
        case "log", [int(step), numbers]:
            run.log({STEP: step, **numbers})
        case "summary", [numbers]:
            run.summary.update(numbers)
        case "table", [str(name), pa.Table() as table]:
            rows: list[Any] = [list(row.values()) for row in table.to_pylist()]
            run.log({name: wandb.Table(columns=table.column_names, data=rows, allow_mixed_types=True)})
        case "video", [str(name), list(frames), int(fps)]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video.mp4"
                write_video(frames, path, fps)
                run.log({name: wandb.Video(str(path), format="mp4")})  # copied before this returns
        case _:
            raise ValueError(f"no message {kind!r}")


if __name__ == "__main__":
    main()
