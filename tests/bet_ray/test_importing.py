"""An imported snapshot is a run like a trained one; a file that is refused leaves nothing behind."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bet.policy import Policy
from bet.snapshots.records import SnapshotError
from bet_ray.importing import import_run
from bet_ray.manifest import RunError, read_manifest
from tests.bet.snapshots.originals import generator, payload, save
from tests.bet_ray.commands import Command


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A training of the reproduction study: two seeds, each with its best and its last snapshot."""
    folder = tmp_path / "train_runs" / "0"
    for seed, (best, last) in enumerate([(30, 40), (40, 40)]):
        prior = generator("mlp", seed)
        save(payload(prior, best), folder / f"snapshot_{seed}.pt")
        save(payload(prior if best == last else generator("mlp", 9), last), folder / "last" / f"snapshot_{seed}.pt")
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("experiment: {seed: 42, lr: 0.001, num_prior_epochs: 40}\n")
    return folder


def test_snapshots_of_the_study_are_seeds_and_epochs_of_one_run(study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = import_run(study, "blockpush", run)
    folders = sorted(file.parent for file in run.glob("policies/*/*/*/policy.json"))
    assert [folder.relative_to(run / "policies").parts[1:] for folder in folders] == [
        ("0", "30"),
        ("0", "40"),
        ("1", "40"),
    ]
    assert len({folder.parts[-3] for folder in folders}) == 1
    assert Policy.load(run).digest == Policy.load(folders[-1]).digest
    manifest = read_manifest(run)
    assert (manifest["kind"], manifest["task"]) == ("import", "blockpush")
    files = [one["file"] for one in manifest["snapshots"]]
    assert files == ["snapshot_0.pt", "last/snapshot_0.pt", "snapshot_1.pt"]  # of seed 1 the best is the last
    assert [one["policy"] for one in manifest["snapshots"]] == list(found)
    assert manifest["from_preset"] == [
        "data.train_fraction",
        "train.batch_size",
        "train.weight_decay",
        "train.betas",
        "train.grad_clip",
        "data.drop_last_window",
        "codebook.fit_on",
    ]


def test_nothing_is_written_where_one_file_is_refused_or_the_run_is_in_use(study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torn = study / "snapshot_1.pt"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:1000])
    with pytest.raises(SnapshotError, match=r"snapshot_1\.pt"):
        import_run(study, "blockpush", run)
    assert not run.exists()
    save(payload(generator("mlp", 5), 40), torn)
    with pytest.raises(SnapshotError, match=r"another epoch 40 of the training of .*snapshot_1\.pt"):
        import_run(study, "blockpush", run)
    torn.write_bytes(whole)
    import_run(study, "blockpush", run)
    with pytest.raises(RunError, match="holds a run already"):
        import_run(study, "blockpush", run)


def test_the_command_says_what_it_made_and_what_it_could_not_know(tmp_path: Path, command: Command) -> None:
    file = save(payload(generator("transformer"), epoch=7), tmp_path / "snapshot.pt")
    done = command("import", file, "--task", "blockpush", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    digest = json.loads(next((tmp_path / "run").rglob("policy.json")).read_text())["policy_digest"]
    (row,) = [line.split() for line in done.out.splitlines() if "snapshot.pt" in line]
    assert row[:6] == ["snapshot.pt", "transformer", "6", "5", "state", "(16)"]
    assert row[7] == digest[:12]
    assert "as in the preset of blockpush: data.train_fraction" in done.out
    assert "1 policy in" in done.out
    assert f"next: bet-ray eval {tmp_path / 'run'} --episodes 200\n" in done.out


def test_a_refused_file_is_one_line_with_file_and_class_and_exit_code_2(tmp_path: Path, command: Command) -> None:
    file = save(payload(generator("transformer")) | {"epoch": pytest.raises}, tmp_path / "snapshot.pt")
    done = command("import", file, "--task", "blockpush", "--out", tmp_path / "run")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line == f"error: {file}: refused: it names _pytest.raises.raises, which no snapshot needs"
    wrong = command("import", file, "--task", "blockpsh", "--out", tmp_path / "run")
    assert (wrong.code, "did you mean 'blockpush'" in wrong.err) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_an_imported_run_is_evaluated_replayed_and_compared_as_a_trained_one(tmp_path: Path, command: Command) -> None:
    for trunk in ("transformer", "lstm"):
        file = save(payload(generator(trunk)), tmp_path / trunk / "snapshot.pt")
        assert command("import", file, "--task", "blockpush", "--out", tmp_path / f"run-{trunk}").code == 0
    runs = [tmp_path / "run-transformer", tmp_path / "run-lstm"]
    compared = command("compare", *runs, "--episodes", "4")
    assert compared.code == 0, compared.err
    for run in runs:
        rows = pq.read_table(run / "episodes").to_pylist()
        assert [row["policy_digest"] for row in rows] == [Policy.load(run).digest] * 4
        assert all(row["end"] != "error" for row in rows)
    replayed = command("replay", runs[0], "--episode", "2")
    assert replayed.code == 0, replayed.err
    assert "the same as the recorded row, to the last bit" in replayed.out
