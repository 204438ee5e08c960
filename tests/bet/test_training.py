"""The training loop: repeatable and resumable to the bit, fair to every position, and honest about failure."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.spawn import spawn

from bet.config import Config, ConfigError, Trunk, make_config
from bet.data.episodes import DataError, Episodes
from bet.data.windows import windows_of
from bet.envs.pointmass import PointMassVersion
from bet.errors import UsageError
from bet.oracles.pointmass import demonstrations
from bet.training import Epoch, Training, TrainingDivergedError
from bet.workers import Workers

TWO = PointMassVersion.TWO
EPISODES = demonstrations(TWO, 20, seed=0)  # 9 or 15 steps each


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(episodes: Episodes = EPISODES, **settings: Any) -> Training:
    """`train_lr=...` sets train.lr. An epoch is several steps, the last one partial."""
    return Training(config_of(**settings), episodes)


def config_of(**settings: Any) -> Config:
    small = {"train.epochs": 2, "train.batch_size": 48}
    return make_config("pointmass2", small, {key.replace("_", ".", 1): value for key, value in settings.items()})


def run(training: Training, steps: int | None = None) -> Training:
    """Take some steps, or all that are left."""
    while not training.done and (steps is None or steps > 0):
        training.step()
        steps = None if steps is None else steps - 1
    return training


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def assert_same_trees(left: Any, right: Any) -> None:
    """Checkpoints equal to the bit, whatever is in them."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert_same_trees(value, right[key])
    elif isinstance(left, list | tuple):
        for a, b in zip(left, right, strict=True):
            assert_same_trees(a, b)
    else:
        assert left == right


def checkpoint(training: Training, path: Path) -> dict[str, Any]:
    training.save(path)
    return torch.load(path, weights_only=True)


# Repeating and resuming.

EVERYTHING = {
    "train_ema": 0.9,
    "train_schedule": "cosine",
    "train_warmup_steps": 3,
    "model_dropout": 0.3,
    "data_normalize": "minmax",
}


MLP = {"model_trunk": "mlp", "model_batch_norm": True, "train_batch_size": 47}
LSTM = {"model_trunk": "lstm", "model_layers": 2}


@pytest.mark.parametrize(
    "settings",
    [EVERYTHING, {}, EVERYTHING | MLP, EVERYTHING | LSTM],
    ids=["ema, cosine, warm-up, dropout", "preset", "mlp, batch norm", "lstm"],
)
def test_resuming_anywhere_ends_with_the_same_bits_as_not_stopping(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = make(**settings)
    assert whole.steps_per_epoch > 3
    run(whole)
    expected = checkpoint(whole, tmp_path / "whole.pt")
    for stop in (0, 2, whole.steps_per_epoch, whole.steps_per_epoch + 1, 2 * whole.steps_per_epoch):
        run(make(**settings), stop).save(tmp_path / "stopped.pt")
        resumed = make(**settings)
        resumed.restore(tmp_path / "stopped.pt")
        assert resumed.steps_done == stop
        run(resumed)
        assert_same_trees(checkpoint(resumed, tmp_path / "resumed.pt"), expected)
        assert resumed.history == whole.history
        assert resumed.policy().digest == whole.policy().digest


def test_restoring_forgets_what_was_done_meanwhile(tmp_path: Path) -> None:
    training = run(make(**EVERYTHING), 2)
    training.save(tmp_path / "a.pt")
    expected = checkpoint(run(training), tmp_path / "b.pt")
    training.restore(tmp_path / "a.pt")
    assert_same_trees(checkpoint(run(training), tmp_path / "c.pt"), expected)


def test_saving_and_taking_policies_do_not_disturb_training(tmp_path: Path) -> None:
    quiet, disturbed = run(make(**EVERYTHING)), make(**EVERYTHING)
    while not disturbed.done:
        disturbed.policy()
        disturbed.save(tmp_path / "a.pt")
        disturbed.step()
    assert disturbed.policy().digest == quiet.policy().digest
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_policy_is_a_copy_that_training_no_longer_changes() -> None:
    training = make()
    policy = training.policy()
    before = policy.digest
    run(training, 2)
    assert training.policy().digest != before
    assert type(policy).unpack(*policy.pack()).digest == before


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    torch.manual_seed(1)
    first = run(make())
    torch.manual_seed(2)
    again, other = run(make()), run(make(train_seed=1))
    assert first.history == again.history
    assert first.policy().digest == again.policy().digest
    assert not same_weights(weights(first), weights(other))


def test_a_seed_sets_initial_weights_order_and_dropout() -> None:
    assert not same_weights(weights(make()), weights(make(train_seed=1)))
    assert same_weights(weights(make()), weights(make()))


def test_every_step_has_a_dropout_mask_of_its_own() -> None:
    """Where all windows are alike and weights stand still, only the mask can change the loss."""
    alike = Episodes(np.ones((40, 2), np.float32), np.ones((40, 2), np.float32), np.arange(10, 41, 10), "pointmass2")
    still = {"codebook_bins": 1, "train_lr": 1e-30, "train_batch_size": 100, "train_epochs": 4}
    losses = [row.train_loss for row in run(make(alike, model_dropout=0.5, **still)).history]
    assert len(set(losses)) == 4
    assert len({row.train_loss for row in run(make(alike, model_dropout=0.0, **still)).history}) == 1


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_every_legal_seed_trains(seed: int) -> None:
    assert run(make(train_seed=seed), 1).steps_done == 1


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    training = make(model_dropout=0.3)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    np.random.seed(3)  # noqa: NPY002
    coming = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    run(training)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.random() == coming  # noqa: NPY002


# Checkpoints that do not fit.


def restore_complaint(training: Training, path: Path) -> str:
    with pytest.raises(UsageError) as error:
        training.restore(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("change", [{"train_lr": 2e-4}, {"train_seed": 1}, {"train_epochs": 3}, {"train_ema": 0.5}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    make(**change).save(tmp_path / "a.pt")
    training = make()
    before = weights(training)
    assert "other settings" in restore_complaint(training, tmp_path / "a.pt")
    assert same_weights(weights(training), before)


def test_settings_of_the_evaluation_may_differ(tmp_path: Path) -> None:
    run(make(), 2).save(tmp_path / "a.pt")
    training = make(eval_episodes=7, pool_slots=3)
    training.restore(tmp_path / "a.pt")
    assert training.steps_done == 2


def test_a_checkpoint_of_other_demonstrations_is_refused(tmp_path: Path) -> None:
    make(demonstrations(TWO, 20, seed=1)).save(tmp_path / "a.pt")
    assert "other demonstrations" in restore_complaint(make(), tmp_path / "a.pt")


@pytest.mark.parametrize("keep", [0, 5, 2000, -100])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.pt"
    make().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a readable checkpoint" in restore_complaint(make(), path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"hello")
    restore_complaint(make(), path)
    torch.save({"weights": 1}, path)
    restore_complaint(make(), path)
    restore_complaint(make(), tmp_path / "absent.pt")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"config": Bomb(tmp_path / "exploded")}, tmp_path / "a.pt")
    restore_complaint(make(), tmp_path / "a.pt")
    assert not (tmp_path / "exploded").exists()


# Data.


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("window", [1, 2, 12])
def test_an_epoch_is_every_window_of_the_training_split_and_no_other(window: int, drop: bool) -> None:
    train, validation = EPISODES.split(0.75, seed=3)
    training = make(
        model_window=window, data_drop_last_window=drop, data_train_fraction=0.75, data_split_seed=3, train_epochs=1
    )
    assert training.windows == len(windows_of(train, window, drop))
    assert training.windows < len(windows_of(EPISODES, window, drop))
    assert len(validation) == 5
    if drop:
        assert training.windows == int(np.maximum(train.lengths - window, 0).sum())


def with_changed_validation(episodes: Episodes, fraction: float, seed: int) -> Episodes:
    """The same training episodes, and other validation actions."""
    rows = np.arange(len(episodes.observations), dtype=np.float32)[:, None]
    named = Episodes(rows, rows, episodes.episode_ends, episodes.task)
    actions = episodes.actions.copy()
    actions[named.split(fraction, seed)[1].observations[:, 0].astype(int)] += 1
    return Episodes(episodes.observations, actions, episodes.episode_ends, episodes.task)


def test_validation_episodes_leave_no_trace_in_the_weights() -> None:
    changed = with_changed_validation(EPISODES, 0.75, 0)
    settings = {"data_train_fraction": 0.75, "data_normalize": "minmax", "train_ema": 0.9}
    first, second = run(make(**settings)), run(make(changed, **settings))
    assert first.policy().digest == second.policy().digest
    assert [row.train_loss for row in first.history] == [row.train_loss for row in second.history]
    assert [row.val_loss for row in first.history] != [row.val_loss for row in second.history]
    assert first.policy().dataset_digest != second.policy().dataset_digest


def test_the_codebook_is_fitted_on_the_training_split_or_on_all() -> None:
    changed = with_changed_validation(EPISODES, 0.75, 0)
    on_train = [make(data, data_train_fraction=0.75).policy() for data in (EPISODES, changed)]
    on_all = [make(data, data_train_fraction=0.75, codebook_fit_on="all").policy() for data in (EPISODES, changed)]
    assert torch.equal(on_train[0].centers, on_train[1].centers)
    assert not torch.equal(on_all[0].centers, on_all[1].centers)
    assert not torch.equal(on_train[0].centers, on_all[0].centers)


def test_the_split_has_a_seed_of_its_own() -> None:
    assert same_weights(weights(make()), weights(make(data_split_seed=1)))
    assert run(make()).history != run(make(data_split_seed=1)).history


def test_a_split_may_be_tied_to_the_training_seed() -> None:
    tied, apart = (run(make(train_seed=3, train_epochs=1, data_split_seed=seed)) for seed in (None, 3))
    assert tied.history == apart.history
    assert tied.history != run(make(train_seed=3, train_epochs=1)).history


def test_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"codebook\.bins=100000"):
        make(codebook_bins=100_000)
    with pytest.raises(DataError, match="one episode"):
        make(EPISODES.select(np.array([0])))
    with pytest.raises(DataError, match="no window of 15 steps"):
        make(model_window=15, data_drop_last_window=True)


def test_a_device_that_is_not_here_is_refused_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UsageError, match=r"^train\.device: 'cuda' is not available here: torch .* without CUDA"):
        make(train_device="cuda")


def test_a_policy_says_which_device_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    training = make(train_device="auto")
    assert training.policy().config.train.device == training.device.type == "cpu"
    assert run(training).policy().digest == run(make(train_device="cpu")).policy().digest


def test_a_device_without_float64_sums_losses_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = run(make(train_epochs=1)).history[0]
    monkeypatch.setattr("bet.training.summing", lambda _: torch.float32)
    rounded = run(make(train_epochs=1)).history[0]
    assert rounded != exact
    assert rounded.train_loss == pytest.approx(exact.train_loss, rel=1e-5)
    assert rounded.val_loss == pytest.approx(exact.val_loss, rel=1e-5)


# Losses.

STILL = {"train_lr": 1e-30, "model_dropout": 0.0, "train_epochs": 1}  # weights do not move


@pytest.mark.parametrize("window", [2, 12])  # with 12, shorter episodes give masked windows
def test_an_epochs_loss_is_a_mean_over_positions_however_they_are_batched(window: int) -> None:
    rows = [run(make(train_batch_size=size, model_window=window, **STILL)).history[0] for size in (7, 48, 10**6)]
    for row in rows[1:]:
        for name in ("train_loss", "train_focal", "train_offset", "val_loss", "val_focal", "val_offset"):
            assert getattr(row, name) == pytest.approx(getattr(rows[0], name), rel=1e-5)


def test_padding_beyond_a_short_episode_counts_for_nothing() -> None:
    """With a window longer than any episode, an epoch's mean is that over the episodes' own steps."""
    training = make(model_window=40, **STILL)
    reference = make(model_window=40, **STILL)
    train, _ = EPISODES.split(0.95, 0)
    assert training.windows == len(train)
    policy = reference.policy()
    losses = []
    for start, end in zip(train.episode_starts, train.episode_ends, strict=True):
        logits, _ = policy.model(torch.tensor(train.observations[start:end])[None])
        bins = torch.cdist(torch.tensor(train.actions[start:end]), policy.centers).argmin(-1)
        log_p = logits[0].log_softmax(-1)[torch.arange(end - start), bins]
        losses.append(-((1 - log_p.exp()) ** 2) * log_p)
    assert run(training).history[0].train_focal == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_the_loss_is_focal_plus_scaled_offset() -> None:
    row = run(make(loss_offset_scale=3.0)).history[-1]
    assert row.train_loss == pytest.approx(row.train_focal + 3 * row.train_offset)
    assert row.val_loss == pytest.approx(row.val_focal + 3 * row.val_offset)
    assert 0 <= row.val_accuracy <= 1


def test_the_loss_falls_on_point_mass() -> None:
    history = run(make(train_lr=1e-2, train_epochs=25, data_train_fraction=0.75)).history
    assert [row.epoch for row in history] == list(range(1, 26))
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    assert history[-1].val_loss < 0.9 * history[0].val_loss
    assert history[-1].val_accuracy > history[0].val_accuracy


def test_a_batch_larger_than_the_data_set_is_one_step() -> None:
    training = make(train_batch_size=10**6)
    assert training.steps_per_epoch == 1
    run(training)
    assert training.steps_done == 2
    assert training.epochs_done == 2


def test_a_step_reports_an_epoch_exactly_when_it_completes_one() -> None:
    training = make()
    reports = [training.step() for _ in range(2 * training.steps_per_epoch)]
    done = [place for place, epoch in enumerate(reports, start=1) if epoch is not None]
    assert done == [training.steps_per_epoch, 2 * training.steps_per_epoch]
    assert [epoch for epoch in reports if epoch] == training.history
    assert isinstance(reports[-1], Epoch)
    assert training.done


@pytest.mark.parametrize("settings", [{"codebook_bins": 1}, {"model_offsets": False}, {"model_window": 1}])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("trunk", Trunk)
def test_ablations_train(settings: dict[str, Any], gamma: float, trunk: Trunk) -> None:
    training = run(make(loss_gamma=gamma, train_epochs=1, model_trunk=trunk, **settings))
    assert math.isfinite(training.history[0].val_loss)
    assert all(tensor.isfinite().all() for tensor in training.model.state_dict().values())


def test_short_episodes_are_padded_where_acting_pads() -> None:
    """With a window longer than any episode, an MLP is validated on what it acts on: zeros, then the episode."""
    training = make(model_trunk="mlp", model_window=40, **STILL)
    policy = training.policy()
    _, validation = EPISODES.split(0.95, 0)
    losses = []
    for start, end in zip(validation.episode_starts, validation.episode_ends, strict=True):
        history = torch.zeros(1, 40, 2)
        history[0, : end - start] = torch.tensor(validation.observations[start:end])
        logits, _ = policy.model.read(history, torch.tensor([end - start]))
        bins = torch.cdist(torch.tensor(validation.actions[end - 1 : end]), policy.centers).argmin(-1)
        log_p = logits.log_softmax(-1)[0, bins]
        losses.append(-((1 - log_p.exp()) ** 2) * log_p)
    assert run(training).history[0].val_focal == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


# Several processes.


def _work(rank: int, count: int, folder: Path, settings: dict[str, Any]) -> None:
    """One of `count` real processes that train together."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count)
    training = run(make(**settings) if count == 1 else Training(config_of(**settings), EPISODES, Workers(rank, count)))
    training.save(folder / f"{rank}.pt")
    dist.destroy_process_group()


def trained_by(count: int, folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of `count` workers has in the end."""
    folder.mkdir()
    spawn(_work, (count, folder, settings), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [EVERYTHING, EVERYTHING | LSTM], ids=["transformer", "lstm"])
def test_two_workers_find_the_losses_that_one_finds(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = settings | {"train_batch_size": 37}  # an odd batch, and a last one that is smaller
    one, two = trained_by(1, tmp_path / "1", settings), trained_by(2, tmp_path / "2", settings)
    assert_same_trees(two[0], two[1])
    for alone, shared in zip(one[0]["history"], two[0]["history"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_a_worker_without_rows_keeps_up(tmp_path: Path) -> None:
    settings = {"train_batch_size": make().windows - 1}  # leaves one window for the last batch
    one, two = trained_by(1, tmp_path / "1", settings), trained_by(2, tmp_path / "2", settings)
    assert_same_trees(two[0], two[1])
    assert two[0]["history"][-1] == pytest.approx(one[0]["history"][-1], rel=1e-5)


@given(total=st.integers(0, 50), count=st.integers(1, 9))
def test_every_row_belongs_to_one_worker_and_all_have_about_as_many(total: int, count: int) -> None:
    parts = [range(total)[Workers(rank, count).rows(total)] for rank in range(count)]
    assert [row for part in parts for row in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_batch_norm_refuses_what_its_statistics_do_not_allow() -> None:
    settings = {"model_trunk": "mlp", "model_batch_norm": True}
    with pytest.raises(ConfigError, match="batch_norm: its statistics need the whole batch, so train with one worker"):
        Training(config_of(**settings), EPISODES, Workers(0, 2))
    for size in (make().windows - 1, 1):
        with pytest.raises(ConfigError, match=r"one is alone; use another train\.batch_size"):
            make(train_batch_size=size, **settings)


# Arithmetic.


def test_the_number_of_threads_around_a_training_changes_no_bit() -> None:
    torch.set_num_threads(2)
    two = run(make(train_epochs=1)).policy().digest
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert run(make(train_epochs=1)).policy().digest == two


def test_bf16_trains_and_its_policy_acts_in_float32() -> None:
    training, exact = run(make(train_precision="bf16", train_lr=1e-3)), run(make(train_lr=1e-3))
    assert training.history != exact.history
    assert training.history[-1].val_loss == pytest.approx(exact.history[-1].val_loss, rel=0.1)
    assert all(tensor.dtype == torch.float32 for tensor in training.policy().model.state_dict().values())


# The optimiser's settings.


def test_weight_decay_is_for_matrices_alone() -> None:
    heavy, none = (weights(run(make(train_weight_decay=decay, train_lr=1e-3), 1)) for decay in (100.0, 0.0))
    for name, weight in none.items():
        decayed = weight.ndim == 2 and name != "position"
        assert torch.equal(heavy[name], weight) != decayed, name


def test_the_learning_rate_warms_up_and_stays() -> None:
    training = make(train_warmup_steps=12, train_lr=1e-3, train_epochs=4)
    assert 6 > training.steps_per_epoch > 3
    steps = training.steps_per_epoch
    rates = [row.lr for row in run(training).history]
    assert rates == pytest.approx([1e-3 * min(steps * epoch / 12, 1) for epoch in (1, 2, 3, 4)])


def test_the_cosine_schedule_falls_to_almost_zero_at_the_end() -> None:
    rates = [row.lr for row in run(make(train_schedule="cosine", train_lr=1e-3, train_epochs=6)).history]
    assert rates == sorted(rates, reverse=True)
    assert rates[2] == pytest.approx(0.5e-3, rel=0.2)
    assert 0 < rates[-1] < 1e-5


def test_the_average_of_the_weights_acts_and_does_not_change_training() -> None:
    plain, averaged = run(make(train_lr=1e-2)), run(make(train_lr=1e-2, train_ema=0.99))
    assert same_weights(weights(plain), weights(averaged))
    assert [row.train_loss for row in plain.history] == [row.train_loss for row in averaged.history]
    assert not same_weights(plain.policy().model.state_dict(), averaged.policy().model.state_dict())
    assert plain.history[-1].val_loss != averaged.history[-1].val_loss  # the one that acts is validated


def test_clipping_bounds_the_gradient() -> None:
    """Adam forgets the scale of a gradient that is always clipped, unless clipping brings it near Adam's epsilon."""
    free, clipped = (weights(run(make(train_grad_clip=clip), 1)) for clip in (None, 1e-12))
    start = weights(make())
    moved = [sum((after[name] - start[name]).abs().sum() for name in start) for after in (free, clipped)]
    assert moved[1] < 0.1 * moved[0]


def test_a_run_that_diverges_says_in_which_epoch() -> None:
    training = make(train_lr=1e6, train_grad_clip=None, train_epochs=20)
    with pytest.raises(TrainingDivergedError, match=r"not finite in epoch \d+; try a smaller train\.lr") as error:
        run(training)
    assert f"epoch {len(training.history) + 1};" in str(error.value)
