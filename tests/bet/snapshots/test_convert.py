"""An imported policy computes what the original computed, for every history; what ours cannot repeat is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bet.policy import Policy
from bet.snapshots.convert import find_snapshots, import_snapshot
from bet.snapshots.records import SnapshotError

from .originals import (
    ACT_DIM,
    BINS,
    OBS_DIM,
    WINDOW,
    Generator,
    LatentGeneratorDataParallel,
    generator,
    in_parallel,
    payload,
    save,
)

TASK = "blockpush"
KINDS: dict[str, dict[str, Any]] = {
    "transformer": {"trunk": "transformer"},
    "transformer without offsets": {"trunk": "transformer", "offsets": False},
    "mlp": {"trunk": "mlp"},
    "mlp without batch norm": {"trunk": "mlp", "batchnorm": False, "depth": 1},
    "lstm": {"trunk": "lstm"},
}


@pytest.fixture(params=KINDS)
def original(request: pytest.FixtureRequest) -> Generator:
    return generator(**KINDS[request.param])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_logits_and_offsets_are_the_originals_for_every_length_of_history(
    original: Generator, zipped: bool, tmp_path: Path
) -> None:
    policy = import_snapshot(save(payload(original), tmp_path / "snapshot.pt", zipped=zipped), TASK).policy
    observations = torch.randn(7, WINDOW, OBS_DIM)
    for length in range(1, WINDOW + 1):
        history = observations[:, :length]
        with torch.no_grad():
            wanted = original.last(history)
        padded = torch.cat([history, torch.full((7, WINDOW - length, OBS_DIM), 3.0)], dim=1)
        read = policy.model.read(padded, torch.full((7,), length))
        forward = tuple(values[:, -1] for values in policy.model(history))
        for ours in (read, forward):
            for found, expected in zip(ours, wanted, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_position_of_a_window_has_the_originals_logits_and_offsets(original: Generator, tmp_path: Path) -> None:
    policy = import_snapshot(save(payload(original), tmp_path / "snapshot.pt"), TASK).policy
    window = torch.randn(4, WINDOW, OBS_DIM)
    logits, offsets = policy.model(window)
    assert offsets.shape == (4, WINDOW, BINS, ACT_DIM)
    ours = torch.cat([logits, offsets.flatten(2)] if original.predict_offsets else [logits], dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(ours, original.outputs(window), rtol=1e-5, atol=1e-5)


def test_an_action_is_the_centre_of_its_bin_and_the_offset_in_data_units(tmp_path: Path) -> None:
    original = generator("transformer")
    snapshot = payload(original)
    policy = import_snapshot(save(snapshot, tmp_path / "snapshot.pt"), TASK).policy
    np.testing.assert_array_equal(policy.bin_centers, snapshot["action_ae"].bin_centers.numpy())
    history = np.random.default_rng(0).normal(size=(5, WINDOW, OBS_DIM)).astype(np.float32)
    actions, bins = policy.act(history, np.full(5, WINDOW), np.linspace(0, 0.99, 5))
    with torch.no_grad():
        _, offsets = original.last(torch.from_numpy(history))
    expected = snapshot["action_ae"].bin_centers[bins] + offsets[torch.arange(5), bins]
    np.testing.assert_allclose(actions, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_an_imported_policy_is_saved_and_loaded_as_any_other(original: Generator, tmp_path: Path) -> None:
    policy = import_snapshot(save(payload(original), tmp_path / "snapshot.pt"), TASK).policy
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy")
    assert loaded.digest == policy.digest
    window = torch.randn(3, WINDOW, OBS_DIM)
    for ours, same in zip(loaded.model(window), policy.model(window), strict=True):
        torch.testing.assert_close(ours, same, rtol=0, atol=0)


def test_a_snapshot_saved_by_several_gpus_is_the_same_policy(tmp_path: Path) -> None:
    snapshot = payload(generator("mlp"))
    one = import_snapshot(save(snapshot, tmp_path / "a.pt"), TASK)
    other = import_snapshot(save(in_parallel(snapshot), tmp_path / "b.pt"), TASK)
    assert one.policy.digest == other.policy.digest


def test_settings_come_from_the_snapshot_and_from_what_hydra_recorded(tmp_path: Path) -> None:
    file = save(payload(generator("lstm"), epoch=12), tmp_path / "last" / "snapshot_3.pt")
    alone = import_snapshot(file, TASK)
    config = alone.policy.config
    assert (config.model.trunk, config.model.window, config.codebook.bins) == ("lstm", WINDOW, BINS)
    assert (config.loss.gamma, config.loss.offset_scale, config.train.seed, alone.epoch) == (2.0, 1000.0, 3, 12)
    assert config.train.epochs == 350  # the preset's
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(
        "env: {name: blockpush}\nexperiment:\n  seed: 42\n  lr: 0.003\n  betas: [0.8, 0.9]\n  grad_norm_clip: .inf\n"
        "  num_prior_epochs: 40\n  batch_size: ${env.none}\n  save_subdir: ${now:%Y}\n".replace("${env.none}", "8")
    )
    found = import_snapshot(file, TASK).policy
    train = found.config.train
    assert (train.lr, train.betas, train.grad_clip, train.epochs) == (0.003, (0.8, 0.9), None, 40)
    assert (train.batch_size, train.seed) == (8, 3)  # the seed of a cross-validation is its number
    assert found.digest == alone.policy.digest


def test_hydras_settings_at_the_top_level_are_read_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = save(payload(generator("transformer")), tmp_path / "snapshot.pt")
    record = tmp_path / ".hydra" / "config.yaml"
    record.parent.mkdir()
    record.write_text("lr: 0.01\nseed: 9\nwindow_size: 5\nbatch_size: ???\nnum_prior_epochs: 3\n")
    train = import_snapshot(file, TASK).policy.config.train
    assert (train.lr, train.seed, train.epochs, train.batch_size) == (0.01, 9, 3, 256)
    record.write_text("lr: [0.01\n")
    with pytest.raises(SnapshotError, match=r"config\.yaml"):
        import_snapshot(file, TASK)
    record.write_text("lr: fast\n")
    with pytest.raises(SnapshotError, match=r"snapshot\.pt: train\.lr"):
        import_snapshot(file, TASK)


def test_snapshots_of_a_directory_are_found_in_order(tmp_path: Path) -> None:
    for name in ("snapshot_10.pt", "snapshot_2.pt", "last/snapshot_2.pt", "latents.pt", "snapshot_2.pt.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [file.relative_to(tmp_path).as_posix() for file in find_snapshots(tmp_path)]
    assert found == ["snapshot_2.pt", "last/snapshot_2.pt", "snapshot_10.pt"]
    assert find_snapshots(tmp_path / "last") == [tmp_path / "last" / "snapshot_2.pt"]
    assert find_snapshots(tmp_path / "latents.pt") == [tmp_path / "latents.pt"]
    with pytest.raises(SnapshotError, match="no such file or directory"):
        find_snapshots(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SnapshotError, match=r"empty: no snapshot\.pt"):
        find_snapshots(tmp_path / "empty")


def _tanh_gelu(prior: Any) -> None:
    prior.model.blocks[1].mlp[1] = nn.GELU(approximate="tanh")


def _other_epsilon(prior: Any) -> None:
    prior.model.ln_f.eps = 1e-6


def _tokens(prior: Any) -> None:
    prior.model.discrete_input = True


def _head_with_bias(prior: Any) -> None:
    prior.model.head = nn.Linear(24, prior.outputs_each)


def _narrow_head(prior: Any) -> None:
    prior.model.head = nn.Linear(24, 7, bias=False)


def _another_layer(prior: Any) -> None:
    prior.model.blocks[0].ln1 = nn.Identity()


def _whole_numbers(prior: Any) -> None:
    prior.model.tok_emb.weight = nn.Parameter(torch.ones(24, OBS_DIM, dtype=torch.int64), requires_grad=False)


def _itself(prior: Any) -> None:
    wrapped = LatentGeneratorDataParallel(prior)
    wrapped._modules["module"] = wrapped
    prior.model._modules["blocks"] = wrapped


def _out_of_range(prior: Any) -> None:
    prior.focal_loss_gamma = 10**400


def _not_finite(prior: Any) -> None:
    with torch.no_grad():
        prior.model.blocks[0].attn.query.weight[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tanh_gelu, r"state_prior.model.blocks.1.mlp.1: is not the exact GELU"),
        (_other_epsilon, r"state_prior.model.ln_f: eps is 1e-06, ours is 1e-05"),
        (_tokens, r"state_prior.model: takes tokens, not observations"),
        (_head_with_bias, r"state_prior.model.head: has a bias, which the original has not"),
        (_narrow_head, r"state_prior: size mismatch for head.weight"),
        (
            _another_layer,
            r"state_prior.model.blocks.0.ln1: is a torch.nn.modules.linear.Identity, expected .*LayerNorm",
        ),
        (_whole_numbers, r"state_prior.model.tok_emb: weight is of torch.int64"),
        (_itself, r"state_prior.model.blocks: is a models.latent_generators.*DataParallel, expected"),
        (_out_of_range, r"state_prior: focal_loss_gamma is out of range"),
        (_not_finite, r"state_prior.model.blocks.0.attn.query: weight has numbers that are not finite"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_that_ours_cannot_repeat_is_refused_by_the_name_of_its_part(
    change: Any, message: str, tmp_path: Path
) -> None:
    prior = generator("transformer")
    change(prior)
    with pytest.raises(SnapshotError, match=rf"snapshot\.pt: {message}"):
        import_snapshot(save(payload(prior), tmp_path / "snapshot.pt"), TASK)


def test_other_observations_actions_or_contents_are_refused(tmp_path: Path) -> None:
    snapshot = payload(generator("transformer"))
    file = save(snapshot, tmp_path / "snapshot.pt")
    with pytest.raises(SnapshotError, match="observations have 16 numbers, those of pusht: state 6, agent 2"):
        import_snapshot(file, "pusht")
    with pytest.raises(SnapshotError, match="actions have 2 numbers, those of kitchen have 9"):
        import_snapshot(file, "kitchen")
    save(snapshot | {"obs_encoding_net": nn.Linear(3, 3)}, file)
    with pytest.raises(SnapshotError, match=r"obs_encoding_net: is a torch\.nn\.modules\.linear\.Linear, expected"):
        import_snapshot(file, TASK)
    save({"model": snapshot["state_prior"]}, file)
    with pytest.raises(SnapshotError, match="not a snapshot of the original code: no action_ae, obs_encoding_net, st"):
        import_snapshot(file, TASK)
    save(torch.zeros(3), file)
    with pytest.raises(SnapshotError, match="not a snapshot of the original code"):
        import_snapshot(file, TASK)
