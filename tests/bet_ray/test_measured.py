"""What `eval` and `metrics` print of a measurement: the numbers of one policy, and the table of several."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from bet import tasks
from bet.config import Normalize, Split, make_config
from bet.data.episodes import Episodes
from bet.data.store import save_episodes
from bet.envs.kitchen import ELEMENTS, START
from bet.metrics import (
    BLOCKPUSH_FIRST,
    BLOCKPUSH_ROUTES,
    NEVER,
    NO_ROUTE,
    BlockPushOutcome,
    KitchenOutcome,
    Outcome,
    PushTOutcome,
)
from bet.normalizer import fit_normalizer
from bet.policy import Policy
from bet.priors import make_model
from bet.protocol import episode_randomness
from bet.rollout import End, EpisodeResult
from bet.stats import rate_interval, simultaneous_confidence
from bet.tasks import SimulatedTask
from bet_ray.cli.console import console
from bet_ray.cli.measured import print_measured, print_policies
from bet_ray.evaluation import Evaluation, measurement
from bet_ray.results import EpisodeSource, episodes_table

BLOCKS, PUSHT = tasks.get("blockpush"), tasks.get("pusht")
SOURCE = EpisodeSource("a", BLOCKS.protocol.digest, "torch", "report", BLOCKS.name, BLOCKS.protocol.name, 0)


def evaluation(
    folder: Path, task: SimulatedTask, bins: int, data: Path | None = None, digest: str = "demos"
) -> Evaluation:
    """A policy that nobody trained, of demonstrations that were at `data`."""
    settings = {"bins": bins, "model.layers": 1, "model.heads": 1, "model.width": 12, "data.normalize": "none"}
    config = make_config(task.name, settings | ({"data.path": str(data)} if data else {}))
    observation, action = task.boxes(config.data.observation)
    (obs_dim,), (act_dim,) = observation.shape, action.shape
    model = make_model(config.model, obs_dim, act_dim, bins)
    model.initialize(torch.Generator().manual_seed(bins))
    seen, done = (fit_normalizer(np.zeros((1, dim), np.float32), Normalize.NONE) for dim in (obs_dim, act_dim))
    Policy(config, model, torch.zeros(bins, act_dim), seen, done, digest).save(folder)
    return Evaluation.of(folder, None)


def table(task: SimulatedTask, source: EpisodeSource, outcomes: Sequence[Outcome | None]) -> pa.Table:
    """Episodes 0, 1, 2, ... that came out like this; None: an error."""
    results = []
    for index, outcome in enumerate(outcomes):
        won = getattr(outcome, "route", NO_ROUTE) != NO_ROUTE
        end = End.ERROR if outcome is None else End.SUCCESS if won else End.TIME_LIMIT
        seed, _ = episode_randomness(task.protocol, Split.REPORT, index)
        primary = getattr(outcome, "pushed", 0) / 2
        results.append(EpisodeResult(index, seed, won, primary, 0.0, 0.0, 5, end, outcome, None))
    return episodes_table(task, source, results)


def solved(number: int) -> BlockPushOutcome:
    return BlockPushOutcome(2, 2, 2, 1, 1, BLOCKPUSH_ROUTES[number], BLOCKPUSH_FIRST[number], 20, 60, 50, 100 + number)


ONE = BlockPushOutcome(2, 1, 0, 1, 0, NO_ROUTE, BLOCKPUSH_FIRST[0], 20, 60, 50, NEVER)
NONE = BlockPushOutcome(1, 0, 0, 0, 0, NO_ROUTE, NO_ROUTE, 30, NEVER, NEVER, NEVER)


def test_of_block_push_every_rate_event_beginning_and_mode_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_measured(BLOCKS, measurement(BLOCKS, table(BLOCKS, SOURCE, [solved(0), solved(1), ONE, NONE])))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("  blocks pushed  0.625 [")
    assert said[1].startswith("  success  0.500 [")
    counts = {"R1": 4, "R2": 3, "P1": 3, "P2": 2, "P1 stays": 2, "P2 stays": 2, "P1 4 cm": 3, "P2 4 cm": 0}
    counts |= {"P1 stays 4 cm": 2, "P2 stays 4 cm": 0}
    assert said[2:12] == [f"  {name}  {rate_interval(n, 4):.3f}  (wilson, 95%)" for name, n in counts.items()]
    assert said[12:] == [
        "  first block reached: after 20 steps (20 to 27 in four of five)",
        "  second block reached: after 60 steps (60 to 60 in four of five)",
        "  first block pushed: after 50 steps (50 to 50 in four of five)",
        "  second block pushed: after 100 steps (100 to 101 in four of five)",
        "  first: block to target 0.67, block to target2 0.33",
        "  block first straight: 0.50 of the successes (demonstrated 0.25)",
        "  block first crossed: 0.50 of the successes (demonstrated 0.25)",
        "  block2 first straight: 0.00 of the successes (demonstrated 0.25)",
        "  block2 first crossed: 0.00 of the successes (demonstrated 0.25)",
        "  no known route: 0.00 of the successes (demonstrated 0.00)",
        "  entropy of these: 0.69 nats (demonstrated 1.39)",
    ]


def test_what_never_happened_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_measured(BLOCKS, measurement(BLOCKS, table(BLOCKS, SOURCE, [NONE, NONE])))
    said = capsys.readouterr().out
    assert "first block reached: after 30 steps" in said
    for silent in ("second block reached", "block pushed:", "first: ", "entropy"):
        assert silent not in said


def test_an_episode_that_ended_in_an_error_hides_nothing_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    for outcomes, told in (([solved(0), None], "first: block to target 1.00"), ([None], "P2  0.000")):
        print_measured(BLOCKS, measurement(BLOCKS, table(BLOCKS, SOURCE, outcomes)))
        assert told in capsys.readouterr().out


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for a row of a table on one line."""
    monkeypatch.setattr(console, "width", 300)


@pytest.mark.usefixtures("wide")
def test_in_the_table_of_several_policies_are_the_rates_that_the_literature_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak, strong = (evaluation(tmp_path / name, BLOCKS, bins) for name, bins in (("weak", 2), ("strong", 3)))
    outcomes = {weak: [NONE, ONE, NONE, NONE], strong: [solved(0), solved(1), ONE, ONE]}
    print_policies([weak, strong], [table(BLOCKS, one.job.source, outcomes[one]) for one in (weak, strong)])
    title, head, _, best, second = (line for line in capsys.readouterr().out.splitlines() if line.strip())
    assert title.startswith("2 policies · 4 report episodes each")
    assert head.split() == ["#", "policy", "bins", "blocks", "pushed", "R1", "R2", "P1", "P2"]
    confidence = simultaneous_confidence(2)
    for line, one, counts in ((best, strong, (4, 4, 4, 2)), (second, weak, (4, 1, 1, 0))):
        assert str(one.path) in line
        shown = [f"{rate_interval(count, 4, confidence=confidence):.2f}" for count in counts]
        assert " ".join(line.split()).endswith(" ".join(shown))


@pytest.mark.usefixtures("wide")
def test_where_tasks_differ_each_has_its_own_rates_and_those_without_any_their_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks, pusht = evaluation(tmp_path / "b", BLOCKS, 2), evaluation(tmp_path / "p", PUSHT, 2)
    outcomes = {blocks: [solved(0), ONE], pusht: [PushTOutcome(0.5), PushTOutcome(0.2)]}
    print_policies([blocks, pusht], [table(one.task, one.job.source, outcomes[one]) for one in (blocks, pusht)])
    _, head, _, first, second = (line for line in capsys.readouterr().out.splitlines() if line.strip())
    assert head.split()[-6:] == ["primary", "R1", "R2", "P1", "P2", "success"]
    assert (first.count("["), second.count("[")) == (6, 2)


# Entropies of what was done, beside the demonstrations'.


def cooked(*sequences: str) -> list[KitchenOutcome]:
    """Sequences of tasks as outcomes, of which the printed entropies are."""
    return [KitchenOutcome(len(one.split(", ")), one, *[NEVER] * 7) for one in sequences]


def test_entropies_are_printed_beside_the_demonstrations_where_these_are_there(tmp_path: Path) -> None:
    task = tasks.get("kitchen")
    observations = np.tile(np.pad(np.array(START, np.float32), (0, 30)), (3, 1))
    observations[1:, ELEMENTS["microwave"].columns] = ELEMENTS["microwave"].goal
    demonstrations = Episodes(observations, np.zeros((3, 9), np.float32), np.array([1, 3]), "kitchen")
    save_episodes(demonstrations, tmp_path / "demos.parquet")
    found = measurement(task, table(task, SOURCE, cooked("kettle", "microwave")))
    for name, digest, expected in (
        ("demos", demonstrations.digest, "sequence entropy: 1.00 bits (demonstrated 1.00)\n"),
        ("demos", "others", "sequence entropy: 1.00 bits\n"),
        ("none", demonstrations.digest, "sequence entropy: 1.00 bits\n"),
    ):
        one = evaluation(tmp_path / name / digest, task, 2, tmp_path / f"{name}.parquet", digest)
        with console.capture() as printed:
            print_measured(task, found, one.policy)
        assert expected in printed.get()
