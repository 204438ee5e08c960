"""What every policy promises, whatever its settings: one suite, run against several.

Bits are compared, not closeness, wherever an episode's result may not depend on what ran beside it.
"""

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bet.config import Normalize, make_config
from bet.model import Transformer
from bet.normalizer import Normalizer, fit_normalizer
from bet.policy import BEST, POLICY_JSON, WEIGHTS, Policy, PolicyError
from bet.priors import make_model

ACT_DIM = 2
SMALL = {"model.layers": 2, "model.heads": 2, "model.width": 24, "window": 5, "bins": 6}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "transformer": SMALL | {"data.normalize": "minmax"},
    "not normalised": SMALL | {"data.normalize": "none"},
    "no offsets": SMALL | {"model.offsets": False, "data.normalize": "minmax"},
    "one bin": SMALL | {"bins": 1, "data.normalize": "minmax"},
    "window 1": SMALL | {"window": 1, "data.normalize": "minmax"},
    "mlp": SMALL | {"model.trunk": "mlp", "data.normalize": "minmax"},
    "mlp with batch norm": SMALL | {"model.trunk": "mlp", "model.batch_norm": True, "data.normalize": "minmax"},
    "mlp, one bin, window 1": SMALL | {"model.trunk": "mlp", "bins": 1, "window": 1, "data.normalize": "minmax"},
    "lstm": SMALL | {"model.trunk": "lstm", "data.normalize": "minmax"},
    "lstm without offsets": SMALL | {"model.trunk": "lstm", "model.offsets": False, "data.normalize": "minmax"},
}


def make(settings: Mapping[str, Any], *, seed: int = 0, obs_dim: int = 6, dataset_digest: str = "demos") -> Policy:
    """A policy of strong opinions: weights larger than the initial ones."""
    config = make_config("pusht", settings)
    bins = config.codebook.bins
    model = make_model(config.model, obs_dim, ACT_DIM, bins)
    generator = torch.Generator().manual_seed(seed)
    model.initialize(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    data = np.random.default_rng(seed).uniform(0, 512, (50, obs_dim)).astype(np.float32)
    return Policy(
        config,
        model,
        torch.randn(bins, ACT_DIM, generator=generator),
        fit_normalizer(data, config.data.normalize),
        fit_normalizer(data[:, :ACT_DIM], config.data.normalize),
        dataset_digest,
    )


def given_logits(*logits: float) -> Policy:
    """A policy whose bins have these logits, whatever it sees."""
    policy = make(SMALL | {"bins": len(logits)})
    model = policy.model
    assert isinstance(model, Transformer)
    model.norm.weight.zero_()
    model.norm.bias.zero_()
    model.norm.bias[0] = 1
    model.head.weight[: len(logits), 0] = torch.tensor(logits)
    return policy


@pytest.fixture(scope="module", params=SETTINGS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return make(SETTINGS[request.param])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Request = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]
Answer = tuple[NDArray[np.float32], NDArray[np.int64]]


def request_of(policy: Policy, rows: int, seed: int = 0) -> Request:
    """Histories of every length, and uniforms."""
    rng = np.random.default_rng(seed)
    history = rng.uniform(0, 512, (rows, policy.window, policy.model.obs_dim)).astype(np.float32)
    return history, np.arange(rows) % policy.window + 1, rng.random(rows)


def assert_same(left: Answer, right: Answer) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


# Acting.


def test_it_gives_one_finite_action_and_one_bin_per_row(policy: Policy) -> None:
    actions, bins = policy.act(*request_of(policy, 20))
    assert actions.shape == (20, ACT_DIM)
    assert actions.dtype == np.float32
    assert bins.shape == (20,)
    assert bins.dtype == np.int64
    assert np.isfinite(actions).all()
    assert ((bins >= 0) & (bins < policy.config.codebook.bins)).all()


def test_no_rows_give_no_actions(policy: Policy) -> None:
    actions, bins = policy.act(*request_of(policy, 0))
    assert actions.shape == (0, ACT_DIM)
    assert bins.shape == (0,)


@settings(max_examples=8)
@given(data=st.data(), rows=st.integers(1, 40))
def test_a_row_depends_on_neither_its_number_nor_its_order_among_others(
    policy: Policy, data: st.DataObject, rows: int
) -> None:
    history, lengths, uniforms = request_of(policy, 40)
    expected = policy.act(history, lengths, uniforms, batch_size=16)
    chosen = np.array(data.draw(st.permutations(range(40))))[:rows]
    actual = policy.act(history[chosen], lengths[chosen], uniforms[chosen], batch_size=16)
    assert_same(actual, (expected[0][chosen], expected[1][chosen]))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30, 7.0])
def test_what_lies_beyond_the_length_does_not_matter(policy: Policy, garbage: float) -> None:
    history, lengths, uniforms = request_of(policy, 20)
    real = np.arange(policy.window) < lengths[:, None]
    padded = np.where(real[..., None], history, np.float32(garbage))
    assert_same(policy.act(padded, lengths, uniforms), policy.act(history, lengths, uniforms))


def test_a_broken_row_gives_an_action_that_is_not_finite_and_leaves_the_others_alone(policy: Policy) -> None:
    history, lengths, uniforms = request_of(policy, 20)
    expected = policy.act(history, lengths, uniforms)
    history[7, 0] = np.nan
    actions, bins = policy.act(history, lengths, uniforms)
    assert np.isnan(actions[7]).all()
    others = np.arange(20) != 7
    assert_same((actions[others], bins[others]), (expected[0][others], expected[1][others]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_give_an_action_that_is_not_finite(policy: Policy, bad: float) -> None:
    broken = Policy.unpack(*policy.pack())
    broken.model.head.weight[-broken.model.outputs] = bad  # the first bin's logit; its offset stays
    assert not np.isfinite(broken.act(*request_of(policy, 20))[0]).any()


def test_an_action_is_its_bins_centre_plus_that_bins_offset_in_data_units(policy: Policy) -> None:
    history, lengths, uniforms = request_of(policy, 20)
    actions, bins = policy.act(history, lengths, uniforms)
    rows = np.arange(20)
    normalised = torch.from_numpy(policy.observation_normalizer.normalize(history))
    offsets = np.stack(  # (B, act_dim)
        [policy.model(normalised[row : row + 1, : lengths[row]])[1].numpy()[0, -1, bins[row]] for row in rows]
    )
    expected = policy.action_normalizer.denormalize(policy.centers.numpy()[bins] + offsets)
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-3)
    if not policy.config.model.offsets:
        np.testing.assert_array_equal(actions, policy.action_normalizer.denormalize(policy.centers.numpy()[bins]))


def test_the_middle_of_a_history_matters(policy: Policy) -> None:
    history, _, uniforms = request_of(policy, 20)
    lengths = np.full(20, policy.window)
    changed = history.copy()
    changed[:, policy.window // 2] = 0
    if policy.config.model.offsets:
        assert (policy.act(changed, lengths, uniforms)[0] != policy.act(history, lengths, uniforms)[0]).any()


# Drawing bins.


def drawn(policy: Policy, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    history, lengths, _ = request_of(policy, len(uniforms))
    return policy.act(history, lengths, uniforms)[1]


ALMOST_ONE = np.nextafter(1.0, 0.0)
NEVER = -1e4  # a logit whose probability is 0


@pytest.mark.parametrize(
    ("logits", "first", "last"),
    [
        ((0.0, 0.0, 0.0), 0, 2),
        ((NEVER, NEVER, 0.0, 1.0), 2, 3),
        ((0.0, 1.0, NEVER, NEVER), 0, 1),
        ((NEVER, 0.0, NEVER), 1, 1),
        ((3.0,), 0, 0),
    ],
)
def test_uniforms_of_0_and_almost_1_draw_the_first_and_the_last_bin_with_mass(
    logits: tuple[float, ...], first: int, last: int
) -> None:
    assert drawn(given_logits(*logits), np.array([0.0, ALMOST_ONE])).tolist() == [first, last]


def test_uniforms_draw_bins_by_the_inverse_of_the_cumulative_distribution() -> None:
    policy = given_logits(*np.log([0.5, 0.125, 0.25, 0.125]).tolist())
    uniforms = np.array([0.0, 0.499, 0.501, 0.624, 0.626, 0.874, 0.876, 0.999])
    assert drawn(policy, uniforms).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@settings(max_examples=10)
@given(logits=st.lists(st.floats(-8, 8), min_size=1, max_size=9))
def test_bins_are_drawn_as_often_as_softmax_says(logits: list[float]) -> None:
    count = 320
    bins = drawn(given_logits(*logits), (np.arange(count) + 0.5) / count)
    assert (np.diff(bins) >= 0).all()
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.bincount(bins, minlength=len(logits)) / count, shares, atol=1.5 / count)


# On disk.


def test_it_acts_with_the_same_bits_after_saving_and_loading(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "a")
    loaded = Policy.load(tmp_path / "a")
    request = request_of(policy, 20)
    assert_same(loaded.act(*request), policy.act(*request))
    assert loaded.digest == policy.digest
    assert loaded.config == policy.config
    assert loaded.dataset_digest == policy.dataset_digest
    assert loaded.numerics == policy.numerics


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_device_changes_its_numerics_and_nothing_that_stays(policy: Policy, device: str) -> None:
    moved, request = copy.deepcopy(policy), request_of(policy, 20)
    assert moved.to(device).device.type == device
    assert (moved.digest, device in moved.numerics) == (policy.digest, True)
    actions, bins = moved.act(*request)
    assert (np.isfinite(actions).all(), bins.shape) == (True, (20,))
    np.testing.assert_array_equal(moved.bin_centers, policy.bin_centers)
    assert_same(moved.to("cpu").act(*request), policy.act(*request))
    assert moved.numerics == policy.numerics


def test_saving_again_writes_the_same_bytes_and_leaves_nothing_else(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "a")
    Policy.load(tmp_path / "a").save(tmp_path / "b")
    for name in (POLICY_JSON, WEIGHTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    policy.save(tmp_path / "a")
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == sorted([POLICY_JSON, WEIGHTS])


def test_a_loaded_policys_network_can_be_asked_directly(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    loaded = Policy.load(tmp_path)
    observations = torch.zeros(2, policy.window, policy.model.obs_dim)
    for actual, expected in zip(loaded.model(observations), policy.model(observations), strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())


def test_a_run_directory_gives_its_best_policy(tmp_path: Path) -> None:
    first, second = make(SMALL, seed=1), make(SMALL, seed=2)
    first.save(tmp_path / "policies" / "t" / "0" / "1")
    second.save(tmp_path / "policies" / "t" / "0" / "2")
    (tmp_path / "policies" / BEST).write_text("t/0/2\n")
    assert Policy.load(tmp_path).digest == second.digest
    assert Policy.load(str(tmp_path)).digest == second.digest


# Digests.


def test_the_digest_does_not_depend_on_what_trained_it() -> None:
    changes: list[dict[str, Any]] = [{"model.dropout": 0.5}, {"train.lr": 1.0}, {"gamma": 0}, {"eval.episodes": 3}]
    digests = {make(SMALL | change).digest for change in changes}
    assert digests | {make(SMALL, dataset_digest="others").digest} == {make(SMALL).digest}


def test_whatever_acts_changes_the_digest() -> None:
    def changed(change: Callable[[Policy], object]) -> str:
        policy = make(SMALL)
        change(policy)
        return policy.digest

    def renormalised(policy: Policy) -> None:
        policy.action_normalizer = Normalizer(policy.action_normalizer.shift, policy.action_normalizer.scale * 2)

    digests = [
        make(SMALL).digest,
        make(SMALL, seed=1).digest,
        make(SMALL, obs_dim=5).digest,
        make(SMALL | {"data.observation": "agent"}).digest,
        make(SMALL | {"model.heads": 3}).digest,  # the same tensors, read otherwise
        make(SMALL | {"data.normalize": "none"}).digest,
        changed(lambda policy: policy.centers[0].neg_()),
        changed(lambda policy: policy.model.get_parameter("blocks.0.expand.bias")[0].neg_()),
        changed(renormalised),
    ]
    assert len(set(digests)) == len(digests)


# What is refused, by the name of the file.


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make(SMALL).save(tmp_path / "a")
    return tmp_path / "a"


def complaint(path: Path) -> str:
    with pytest.raises(PolicyError) as error:
        Policy.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no such run or policy directory" in complaint(tmp_path / "absent")


def test_a_folder_without_a_policy_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    message = complaint(tmp_path)
    assert POLICY_JSON in message
    assert f"policies/{BEST}" in message


def test_a_run_whose_best_policy_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / BEST).write_text("t/0/2\n")
    assert f"{tmp_path}/policies/t/0/2" in complaint(tmp_path)


def test_missing_weights_are_named(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    assert f"{directory / WEIGHTS}: No such file" in complaint(directory)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path)

    return change


def with_more(path: Path) -> None:
    save_file(load_file(path) | {"model.more": torch.zeros(1)}, path)


def of_another_policy(path: Path) -> None:
    path.write_bytes(make(SMALL, seed=1).pack()[1])


def of_another_shape(path: Path) -> None:
    path.write_bytes(make(SMALL | {"bins": 7}).pack()[1])


@pytest.mark.parametrize(
    "change",
    [
        flip_last_byte,
        truncate,
        empty,
        without("codebook.centers"),
        without("model.head.weight"),
        with_more,
        of_another_policy,
        of_another_shape,
    ],
)
def test_weights_that_were_changed_are_refused(directory: Path, change: Callable[[Path], None]) -> None:
    change(directory / WEIGHTS)
    assert str(directory / WEIGHTS) in complaint(directory)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [WEIGHTS, POLICY_JSON])
@pytest.mark.parametrize("write", [lambda bomb: pickle.dumps(bomb), None], ids=["pickle", "torch"])
def test_nothing_is_unpickled(
    directory: Path, tmp_path: Path, name: str, write: Callable[[Bomb], bytes] | None
) -> None:
    bomb = Bomb(tmp_path / "exploded")
    if write is None:
        torch.save({"model": bomb}, directory / name)
    else:
        (directory / name).write_bytes(write(bomb))
    assert str(directory / name) in complaint(directory)
    assert not bomb.path.exists()
    pickle.loads(pickle.dumps(bomb))
    assert bomb.path.exists()  # it would have


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["config"].update(task="pointmass1"),
        lambda tree: tree["config"]["data"].update(observation="agent"),
        lambda tree: tree["config"]["model"].update(heads=3),
        lambda tree: tree["action_normalizer"].update(scale=[1.0, 1.0]),
        lambda tree: tree.update(policy_digest="0" * 64),
    ],
    ids=["task", "layout", "heads", "normaliser", "digest"],
)
def test_a_description_that_no_longer_fits_the_weights_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(directory / POLICY_JSON, change)
    assert "digest" in complaint(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["config"]["model"].update(widow=3), "config.model.widow|model.widow"),
        (lambda tree: tree["config"]["model"].update(window=0), "model.window"),
        (lambda tree: tree.pop("obs_dim"), "obs_dim"),
        (lambda tree: tree.update(obs_dim="six"), ""),
        (lambda tree: tree.update(obs_dim=-1), ""),
        (lambda tree: tree.update(action_normalizer=None), ""),
        (lambda tree: tree.clear(), "config"),
    ],
)
def test_a_description_that_is_not_one_is_refused_with_its_key(
    directory: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(directory / POLICY_JSON, change)
    text = complaint(directory)
    assert text.startswith(f"{directory / POLICY_JSON}: ")
    assert any(key in text for key in message.split("|"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_description_that_is_not_json_is_refused(directory: Path, content: bytes) -> None:
    (directory / POLICY_JSON).write_bytes(content)
    assert str(directory / POLICY_JSON) in complaint(directory)


def test_normalize_none_leaves_data_units(tmp_path: Path) -> None:
    policy = make(SETTINGS["not normalised"])
    assert policy.config.data.normalize is Normalize.NONE
    assert (policy.action_normalizer.scale == 1).all()
    assert not policy.action_normalizer.shift.any()
