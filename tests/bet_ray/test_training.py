"""A training in a run directory: what it keeps when it cannot go on."""

from pathlib import Path

import pytest

from bet import Policy, tasks
from bet.config import make_config
from bet.training import TrainingDivergedError
from bet_ray.evaluation import policies_of
from bet_ray.manifest import RunError
from bet_ray.training import begin, train

SMALL = {"train.batch_size": 256, "train.epochs": 30}


def test_a_training_that_diverges_names_the_epoch_and_keeps_the_best_policy_so_far(tmp_path: Path) -> None:
    """The learning rate climbs until nothing is finite."""
    config = make_config(
        "pointmass2", SMALL | {"train.lr": 1e12, "train.warmup_steps": 10**12, "train.grad_clip": None}
    )
    episodes = tasks.get("pointmass2").load(config.data).split(0.1, 0)[0]
    begin(tmp_path, config, episodes, resume=False)
    with pytest.raises(TrainingDivergedError) as error:
        train(tmp_path, config, episodes)
    message = str(error.value)
    kept = int(message.rpartition("epoch ")[2].rstrip(")"))
    assert message.startswith("the loss is not finite in epoch ")
    assert f"{tmp_path} keeps the policy of epoch {kept}" in message
    assert (tmp_path / "policies" / "best").read_text().strip().endswith(f"/{kept}")
    assert all(tensor.isfinite().all() for tensor in Policy.load(tmp_path).model.state_dict().values())


def test_a_training_that_diverges_at_once_says_that_there_is_no_policy(tmp_path: Path) -> None:
    config = make_config("pointmass2", SMALL | {"train.lr": 1e30, "train.grad_clip": None})
    episodes = tasks.get("pointmass2").load(config.data).split(0.1, 0)[0]
    begin(tmp_path, config, episodes, resume=False)
    with pytest.raises(TrainingDivergedError, match=r"in epoch 1; try a smaller train\.lr \(no policy yet\)"):
        train(tmp_path, config, episodes)
    assert not (tmp_path / "policies" / "best").exists()


def test_a_run_directory_in_use_or_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = make_config("pointmass2", SMALL | {"train.epochs": 1})
    episodes = tasks.get("pointmass2").load(config.data).split(0.1, 0)[0]
    begin(tmp_path, config, episodes, resume=False)
    train(tmp_path, config, episodes)
    with pytest.raises(RunError, match="holds a run already; continue it with --resume or choose another --out"):
        begin(tmp_path, config, episodes, resume=False)
    other = make_config("pointmass2", SMALL | {"train.epochs": 2})
    with pytest.raises(RunError, match="cannot resume with other settings or demonstrations"):
        begin(tmp_path, other, episodes, resume=True)
    begin(tmp_path, config, episodes, resume=True)


def test_every_epoch_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    config = make_config("pointmass2", SMALL | {"train.epochs": 3})
    episodes = tasks.get("pointmass2").load(config.data).split(0.1, 0)[0]
    for name, keep in (("all", True), ("few", False)):
        begin(tmp_path / name, config, episodes, resume=False)
        best = train(tmp_path / name, config, episodes, keep_epochs=keep)
        epochs = [int(path.name) for path in policies_of(tmp_path / name)]
        assert epochs == ([1, 2, 3] if keep else sorted({best.epoch, 3}))
    assert Policy.load(tmp_path / "all").digest == Policy.load(tmp_path / "few").digest
