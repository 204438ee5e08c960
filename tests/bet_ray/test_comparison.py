"""Two policies on the same episodes: what is said of which is better, and what `compare` and `plan` print."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bet import tasks
from bet.config import EvalConfig, Split
from bet.metrics import SUCCESS, Outcome, PointMassOutcome, PushTOutcome
from bet.planning import paired_rate_episodes
from bet.policy import Policy
from bet.protocol import episode_randomness
from bet.rollout import End, EpisodeResult
from bet.sequential import anytime_comparison, looks
from bet.stats import Method, paired_mean_difference, paired_rate_test
from bet.tasks import SimulatedTask
from bet_ray.comparison import Better, ComparisonError, Rivals, compare_episodes
from bet_ray.ledger import Ledger
from bet_ray.manifest import RunError, write_manifest
from bet_ray.planning import known
from bet_ray.results import EpisodeSource, episodes_table, execution_table
from tests.bet_ray.commands import Command

PUSHT, GRID = tasks.get("pusht"), tasks.get("pointmass2")
ROUTES = list(GRID.modes)


def source(task: SimulatedTask, policy: str, split: str = "report", protocol: str | None = None) -> EpisodeSource:
    digest = protocol or task.protocol.digest
    return EpisodeSource(policy, digest, "torch", split, task.name, task.protocol.name, 0)


def rows(
    task: SimulatedTask,
    source: EpisodeSource,
    success: Sequence[bool],
    primary: Sequence[float] | None = None,
    routes: Sequence[str] | None = None,
) -> pa.Table:
    """Episodes 0, 1, 2, ... that went like this."""

    def outcome(index: int) -> Outcome:
        if not task.modes:
            return PushTOutcome(best_coverage=0.5)
        route = routes[index] if routes else ROUTES[index % len(ROUTES)]
        return PointMassOutcome(route=route, route_distance=0.0)

    results = [
        EpisodeResult(
            index=index,
            seed=episode_randomness(task.protocol, Split.REPORT, index)[0],
            success=bool(won),
            primary=float(won if primary is None else primary[index]),
            total_reward=0.0,
            max_reward=0.0,
            length=5,
            end=End.SUCCESS if won else End.TIME_LIMIT,
            outcome=outcome(index),
            trajectory=None,
        )
        for index, won in enumerate(success)
    ]
    return episodes_table(task, source, results)


A, B = source(PUSHT, "a"), source(PUSHT, "b")


# What is said of rows


def test_the_episodes_that_show_a_difference_are_named_by_index() -> None:
    first, second = [True, True, False, False, True], [True, False, True, False, False]
    found = compare_episodes(PUSHT, rows(PUSHT, A, first), rows(PUSHT, B, second))
    assert (found.only_first, found.only_second) == ((1, 4), (2,))
    assert found.discordant == 3 / 5
    assert found.better is Better.UNDECIDED


def test_where_success_is_rare_the_score_decides_and_names_the_episodes_furthest_apart() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 60)) * 0.5 + [[0.3], [0.0]]
    tables = [rows(PUSHT, who, [False] * 60, score.tolist()) for who, score in zip((A, B), scores, strict=True)]
    found = compare_episodes(PUSHT, *tables)
    score, success = found.metrics
    assert (score.name, success.name) == ("score", SUCCESS)
    assert score.paired == paired_mean_difference(*scores)
    assert score.first.method is Method.GAFFKE
    assert success.paired == paired_rate_test([0] * 60, [0] * 60)
    assert found.better is Better.FIRST
    assert compare_episodes(PUSHT, *reversed(tables)).better is Better.SECOND
    gaps = [abs(gap) for _, gap in found.furthest]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == pytest.approx(np.abs(scores[0] - scores[1]).max())
    for index, gap in found.furthest:
        assert gap == pytest.approx(scores[0, index] - scores[1, index])


def test_a_test_without_its_interval_decides_nothing() -> None:
    """Ten episodes, each a little better: they hardly behave alike, and a rare disaster may be still unseen."""
    first, second = rows(PUSHT, A, [False] * 10, [0.6] * 10), rows(PUSHT, B, [False] * 10, [0.5] * 10)
    found = compare_episodes(PUSHT, first, second)
    assert found.metrics[0].paired.p_value < 0.05
    assert 0 in found.metrics[0].paired.difference
    assert found.better is Better.UNDECIDED


def test_success_times_mode_coverage_is_compared_as_a_whole_and_not_by_episode() -> None:
    """Both always succeed; the first goes as demonstrated, the second by one route only."""
    first = rows(
        GRID, source(GRID, "a"), [True] * 60, routes=(["right_first"] * 3 + ["diagonal"] * 4 + ["up_first"] * 3) * 6
    )
    second = rows(GRID, source(GRID, "b"), [True] * 60, routes=["diagonal"] * 60)
    found = compare_episodes(GRID, first, second)
    product, success = found.metrics
    assert product.name == GRID.protocol.primary
    assert (product.first.estimate, product.second.estimate) == pytest.approx((1.0, 0.4))
    assert product.paired.difference.estimate == pytest.approx(0.6)
    assert product.paired.difference.low > 0.3
    assert product.paired.p_value < 0.001
    assert success.paired.p_value == 1
    assert found.better is Better.FIRST
    assert found.furthest == ()


def test_at_any_time_only_means_of_episodes_are_compared() -> None:
    won = np.random.default_rng(0).random((2, 100)) < [[0.95], [0.5]]
    tables = [rows(GRID, source(GRID, who), w.tolist()) for who, w in zip("ab", won, strict=True)]
    on_grid = compare_episodes(GRID, *tables, anytime=True)
    (metric,) = on_grid.metrics
    assert metric.name == SUCCESS
    assert metric.paired == anytime_comparison(*won)
    assert {metric.first.method, metric.paired.difference.method} == {Method.BETTING}
    assert on_grid.better is Better.FIRST
    of_pusht = compare_episodes(PUSHT, rows(PUSHT, A, won[0].tolist()), rows(PUSHT, B, won[1].tolist()), anytime=True)
    assert [metric.name for metric in of_pusht.metrics] == ["score", SUCCESS]


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (rows(PUSHT, source(PUSHT, "b", protocol="x"), [True] * 5), "protocol_digest"),
        (rows(PUSHT, source(PUSHT, "b", split="tune"), [True] * 5), "split"),
        (rows(PUSHT, B, [True] * 4), "index"),
        (rows(PUSHT, B, [True] * 6).slice(1), "index"),
    ],
    ids=["protocol", "split", "fewer", "others"],
)
def test_rows_that_are_not_of_the_same_episodes_are_refused(other: pa.Table, differs: str) -> None:
    mine = rows(PUSHT, A, [True] * 5)
    with pytest.raises(ComparisonError, match=f"the two tables differ in {differs}"):
        compare_episodes(PUSHT, mine, other)


# What is said of policies, from what their runs recorded: no Ray is started where nothing is missing


def another(path: Path, out: Path, centers: float = 1.0, **changes: object) -> Path:
    """A policy that acts differently, or whose settings do."""
    policy = Policy.load(path)
    Policy(
        policy.config.model_copy(update=changes),
        policy.model,
        policy.centers * centers,
        policy.observation_normalizer,
        policy.action_normalizer,
        policy.dataset_digest,
    ).save(out)
    return out


def record(path: Path, success: Sequence[bool]) -> None:
    """Write what a policy's episodes shall have been."""
    policy = Policy.load(path)
    of = EpisodeSource.of(policy, GRID.protocol, Split.REPORT)
    table = rows(GRID, of, success)
    extra = {"node": "n", "actor": "a", "wall_seconds": 0.1, "attempts": 1}
    execution = execution_table([of.key | {"index": index} | extra for index in range(len(success))])
    Ledger(path, GRID).append(table, execution)


@pytest.fixture
def pair(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Directories of two policies that never ran."""
    Policy.load(trained).save(tmp_path / "a")
    return tmp_path / "a", another(tmp_path / "a", tmp_path / "b", centers=0.5)


def outcomes(rates: tuple[float, float], n: int) -> list[list[bool]]:
    return (np.random.default_rng(0).random((2, n)) < np.array(rates)[:, None]).tolist()


def test_a_decision_is_the_first_that_the_episodes_allow_whatever_else_is_recorded(pair: tuple[Path, Path]) -> None:
    for path, success in zip(pair, outcomes((0.8, 0.5), 400), strict=True):
        record(path, success)
    found = Rivals.of(*pair).compare(400, until_decided=True)
    assert found.better is Better.FIRST
    first, second = (np.array(success) for success in outcomes((0.8, 0.5), 400))
    expected = next(n for n in looks(400) if anytime_comparison(first[:n], second[:n]).p_value <= 0.05)
    assert found.episodes == expected < 400
    fixed = Rivals.of(*pair).compare(400)
    assert fixed.episodes == 400
    assert fixed.metrics[1].paired == paired_rate_test(first, second)


def test_without_a_difference_all_episodes_are_looked_at(pair: tuple[Path, Path]) -> None:
    for path in pair:
        record(path, [True, False] * 60)
    found = Rivals.of(*pair).compare(120, until_decided=True)
    assert (found.better, found.episodes) == (Better.UNDECIDED, 120)


def test_policies_that_cannot_meet_the_same_episodes_are_refused(trained: Path, tmp_path: Path) -> None:
    held = another(trained, tmp_path / "held", eval=EvalConfig(hold_bins=3))
    with pytest.raises(
        ComparisonError, match=r"evaluated differently: hold_bins 1 and 3; give settings .*eval\.hold_bins"
    ):
        Rivals.of(trained, held)
    assert Rivals.of(trained, held, {"eval.hold_bins": 3}).same
    other = another(trained, tmp_path / "other", task="pointmass1")
    with pytest.raises(ComparisonError, match=r"is a policy for pointmass2 and .*other for pointmass1"):
        Rivals.of(trained, other)


def test_what_two_runs_share_tells_a_plan(pair: tuple[Path, Path]) -> None:
    record(pair[0], [True] * 8 + [False] * 2)
    with pytest.raises(RunError, match=r"no episodes that .*b holds too"):
        known(pair)
    record(pair[1], [True] * 6 + [False] * 2)  # of episodes 8 and 9 it has none
    found = known(pair)
    assert (found.episodes, found.rate, found.discordant, found.metric) == (8, 1.0, 2 / 8, None)
    assert found.per_second is None
    alone = known(pair[:1])
    assert (alone.episodes, alone.rate, alone.discordant) == (10, 0.8, None)
    write_manifest(pair[0], "train", "pointmass2", {"evaluations": [{"episodes_per_second": 7.5}]})
    assert known(pair).per_second == 7.5


# What the commands print


@pytest.fixture
def printed(command: Command) -> Callable[..., str]:
    """Runs a command in this process, and gives what it prints; error lines where it ends with 2."""

    def run(*arguments: str | Path) -> str:
        done = command(*arguments)
        assert done.code == (2 if done.err else 0), done.err
        return done.out + done.err

    return run


def test_compare_prints_a_verdict_and_the_episodes_to_look_at(
    pair: tuple[Path, Path], printed: Callable[..., str]
) -> None:
    won = outcomes((0.9, 0.5), 200)
    for path, success in zip(pair, won, strict=True):
        record(path, success)
    only_first = [index for index, (a, b) in enumerate(zip(*won, strict=True)) if a > b]
    said = printed("compare", *pair, "--until-decided", "--max-episodes", "200")
    assert "A is better: success higher by" in said
    assert "decided within 50 of at most 200 episodes of each" in said
    assert "success decides: success x mode coverage has no interval" in said
    assert f"A succeeds where B fails: {', '.join(map(str, only_first[:12]))}, …" in said
    assert f"see one: bet-ray replay {pair[0]} --episode {only_first[0]}" in said
    said = printed("compare", *pair, "--episodes", "200")
    assert "report episodes 0..199 of each" in said
    assert "difference tango" in said
    assert f"({len(only_first)})" in said


def test_equal_policies_are_told_apart_by_nobody(trained: Path, tmp_path: Path, printed: Callable[..., str]) -> None:
    Policy.load(trained).save(tmp_path / "copy")
    assert "the same policy: every episode of A is that of B" in printed("compare", trained, tmp_path / "copy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "nowhere", "else"], "nowhere: no such run or policy directory"),
        (["compare", "a", "b", "--until-decided", "--episodes", "5"], "give --max-episodes, not --episodes"),
        (["compare", "a", "b", "--max-episodes", "5"], "--max-episodes goes with --until-decided"),
        (["plan", "nowhere"], "nowhere: no such run or policy directory"),
        (["plan", "--detect", "0.6"], "no rate differs from 0.5 by 0.6"),
        (["plan", "a", "b", "c"], "one or two runs, got 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line(arguments: list[str], message: str, printed: Callable[..., str]) -> None:
    said = printed(*arguments)
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_plan_prints_what_it_assumes(pair: tuple[Path, Path], printed: Callable[..., str]) -> None:
    said = printed("plan", "--detect", "0.05", "--rate", "0.9", "--discordant", "0.2", "--per-second", "100")
    needed = paired_rate_episodes(0.05, 0.2)
    assert f"{needed:,}" in said
    assert f"{2 * needed / 100 / 60:.1f}" in said
    assert "success rate 0.9 (given) against 0.85" in said
    assert "just one succeeds in 20.0% of the episodes (given)" in said
    many = printed("plan", "--detect", "0.05", "--discordant", "0.2", "--settings", "40")
    needed = paired_rate_episodes(0.05, 0.2, alpha=0.05 / 39)
    assert f"{40 * needed:,}" in many
    assert "alpha is shared by 39 comparisons" in many
    assert "no rate is known" in many
    for path, success in zip(pair, outcomes((0.9, 0.5), 200), strict=True):
        record(path, success)
    assert "(of 200 recorded episodes)" in printed("plan", *pair)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_compare_runs_what_is_missing_and_what_it_names_replays_as_recorded(
    pair: tuple[Path, Path], command: Command
) -> None:
    arguments = ["compare", *pair, "--actors", "1", "--slots", "8"]
    compared = command(*arguments, "--episodes", "20")
    assert compared.code == 0, compared.err
    tables = [pq.read_table(path / "episodes") for path in pair]
    assert [table.column("index").to_pylist() for table in tables] == [list(range(20))] * 2
    assert tables[0].column("seed").equals(tables[1].column("seed"))  # the same initial states
    shown = [line for line in compared.out.splitlines() if line.startswith("see one: bet-ray ")]
    only = [index for index in range(20) if tables[0].column(SUCCESS)[index] != tables[1].column(SUCCESS)[index]]
    assert bool(shown) == bool(only)
    for line in shown:
        words = line.removeprefix("see one: bet-ray ").removesuffix(" --video a.mp4").split()
        assert "the same as the recorded row, to the last bit" in command(*words).out
    decided = command(*arguments, "--until-decided", "--max-episodes", "60")
    assert decided.code == 0, decided.err
    counts = {pq.read_table(path / "episodes").num_rows for path in pair}
    assert counts <= {50, 60}
    assert len(counts) == 1
    planned = command("plan", *pair, "--detect", "0.1")
    assert f"(of {counts.pop()} recorded episodes)" in planned.out, planned.err
