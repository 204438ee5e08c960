"""`bet-ray verify` runs recorded episodes in other ways, certifies equal bits, and names one that is not."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet.config import Split
from bet.policy import Policy
from bet_ray.cli import main
from bet_ray.evaluation import Evaluation
from bet_ray.manifest import CERTIFICATE, amend_manifest, read_manifest
from bet_ray.results import write_table
from bet_ray.verification import (
    VARIANTS,
    Order,
    Variant,
    differences,
    merged,
    rows_digest,
    sampled,
    step_differences,
    verify,
)

from .recording import record, roll_out

ROWS = pa.table({"index": [3, 5, 8], "return": [0.0, 1.0, float("nan")], "end": ["success", "success", "error"]})
STEPS = pa.table(
    {
        "index": [3, 3, 5, 5],
        "step": pa.array([0, 1, 0, 1], pa.int32()),
        "action": pa.array([[0.5, 1.0], None, [0.25, -0.0], None], pa.list_(pa.float32())),
        "reward": [1.0, None, 0.0, None],
    }
)


def with_values(table: pa.Table, name: str, values: list) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def test_equal_tables_are_the_same_however_they_are_cut_and_nan_is_nan() -> None:
    pieces = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)])
    other_nan = float(np.uint64(0x7FF8000000000001).view(np.float64))
    assert differences(ROWS, pieces) == {}
    assert differences(ROWS, with_values(ROWS, "return", [0.0, 1.0, other_nan])) == {}
    assert step_differences(STEPS, pa.concat_tables([STEPS.slice(0, 3), STEPS.slice(3)])) == {}


@pytest.mark.parametrize("value", [-0.0, 5e-324, float("nan")])
def test_one_bit_is_found_and_named(value: float) -> None:
    assert differences(ROWS, with_values(ROWS, "return", [value, 1.0, float("nan")])) == {3: ("return",)}
    assert step_differences(STEPS, with_values(STEPS, "reward", [1.0, None, value, None])) == {5: ("step 0: reward",)}


def test_one_bit_in_a_vector_is_found_and_named() -> None:
    changed = with_values(STEPS, "action", [[0.5, 1.0], None, [0.25, 0.0], None])
    assert step_differences(STEPS, changed) == {5: ("step 0: action",)}


def test_an_episode_or_a_step_that_is_not_there_is_a_difference() -> None:
    assert differences(ROWS, ROWS.slice(0, 2)) == {8: ("missing",)}
    assert differences(ROWS.slice(1), ROWS) == {3: ("not in the reference",)}
    assert step_differences(STEPS, STEPS.slice(0, 3)) == {5: ("step 1: missing",)}
    assert step_differences(STEPS, STEPS.slice(2)) == {3: ("step 0: missing",)}


def test_differences_of_several_tables_are_told_once_each() -> None:
    found = merged({4: ("return",)}, {2: ("step 0: bin",), 4: ("step 3: action",)}, {4: ("return",)})
    assert list(found.items()) == [(2, ("step 0: bin",)), (4, ("return", "step 3: action"))]


@given(there=st.sets(st.integers(0, 10_000), min_size=1, max_size=200), count=st.integers(1, 300))
def test_a_sample_is_repeatable_and_takes_no_episode_twice(there: set[int], count: int) -> None:
    digest = hashlib.sha256(b"policy").hexdigest()
    sample = sampled(digest, sorted(there), count)
    assert sample == sampled(digest, sorted(there), count)
    assert sample == sorted(set(sample))
    assert set(sample) <= there
    assert len(sample) == min(count, len(there))


def test_a_sample_is_not_just_the_first_episodes_and_depends_on_the_policy() -> None:
    digests = [hashlib.sha256(name).hexdigest() for name in (b"one", b"other")]
    first, second = (sampled(digest, range(1000), 64) for digest in digests)
    assert first != second
    assert first != list(range(64))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_runs_the_sampled_episodes_once_each_in_its_order(variant: Variant) -> None:
    order = variant.ordered(range(40))
    assert len(order) == min(variant.most or 40, 40)
    assert len(set(order)) == len(order)
    sign = {Order.ASCENDING: {1}, Order.REVERSED: {-1}}.get(variant.order)
    assert sign is None or set(np.diff(order).tolist()) == sign
    assert sign is not None or set(np.diff(order).tolist()) - {1, -1}


def test_the_digest_of_rows_is_that_of_their_json_lines_by_index_and_changes_with_a_bit() -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS.to_pylist())
    assert rows_digest(ROWS) == hashlib.sha256(lines.encode()).hexdigest()
    assert rows_digest(ROWS.take([2, 0, 1])) == rows_digest(ROWS)
    assert rows_digest(with_values(ROWS, "return", [-0.0, 1.0, float("nan")])) != rows_digest(ROWS)


def certificates(run: Path) -> list[dict]:
    return read_manifest(run).get(CERTIFICATE, [])


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run with twelve episodes on record, four of them with their steps."""
    shutil.copytree(trained, tmp_path / "run")
    policy = Policy.load(trained)
    results = roll_out(policy, 12)
    record(tmp_path / "run", policy, results, results[:4])
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_bit_is_the_same_and_the_certificate_says_of_what(run: Path) -> None:
    stranger = {"policy_digest": "of another policy"}
    amend_manifest(run, "pointmass2", lambda manifest: manifest.update({CERTIFICATE: [stranger]}))
    before = {file: file.read_bytes() for file in run.rglob("*.parquet")}
    one = Evaluation.of(run, run)
    found = verify(one, 8, (Variant(0, 4), Variant(2, 3, Order.SHUFFLED), Variant(2, 2, kills=1)))
    assert found.holds
    assert found.episodes == 8
    assert [verdict.episodes for verdict in found.verdicts] == [8, 8, 8]
    assert found.verdicts[2].killed == 1
    assert found.verdicts[2].again > 0
    old, entry = certificates(run)
    assert old == stranger
    assert {name: entry[name] for name in one.job.source.key} == one.job.source.key
    rows = one.ledger.of(one.job.source).filter(pc.field("index").isin(entry["episodes"]))  # pyright: ignore
    assert entry["rows_sha256"] == rows_digest(rows)
    assert [variant["steps"] for variant in entry["variants"]] == [sum(rows.column("length").to_pylist())] * 3
    assert {file: file.read_bytes() for file in run.rglob("*.parquet")} == before
    verify(one, 8, (Variant(0, 2),))
    assert len(certificates(run)) == 2  # the new one in place of the old


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_episodes_that_are_missing_are_evaluated_and_recorded_first(trained: Path, tmp_path: Path) -> None:
    one = Evaluation.of(trained, tmp_path, Split.TUNE)
    assert verify(one, 5, (Variant(0, 4),)).holds
    assert one.missing(5) == []
    assert [entry["split"] for entry in certificates(tmp_path)] == ["tune"]


@pytest.mark.slow
def test_a_bit_that_was_changed_on_disk_is_named_and_takes_the_certificate_away(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (run / "episodes" / "_parts").glob("*.parquet")
    table = pq.read_table(file)
    values = table.column("return").to_pylist()
    values[7] = float(np.nextafter(values[7], 9.0))
    monkeypatch.setattr("bet_ray.verification.VARIANTS", (Variant(0, 4), Variant(1, 3)))
    monkeypatch.setattr(sys, "argv", ["bet-ray", "verify", str(run), "--episodes", "12"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "12 episodes the same to the last bit in all 2 variants" in capsys.readouterr().out
    assert len(certificates(run)) == 1
    write_table(with_values(table, "return", values), file)
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert printed.err.strip() == f"error: {run}: not the same to the last bit: episode 7 (return)"
    assert printed.out.count("1 episode NOT the same") == 2
    assert certificates(run) == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_bit_that_was_changed_in_the_steps_kept_is_named(run: Path) -> None:
    (file,) = (run / "trajectories" / "_parts").glob("*.parquet")
    table = pq.read_table(file)
    actions = table.column("action").to_pylist()
    at = table.column("index").to_pylist().index(2) + 1
    actions[at] = [actions[at][0], float(np.nextafter(np.float32(actions[at][1]), np.float32(9)))]
    write_table(with_values(table, "action", actions), file)
    assert verify(Evaluation.of(run, run), 12, (Variant(0, 4),)).different == {2: ("step 1: action",)}
