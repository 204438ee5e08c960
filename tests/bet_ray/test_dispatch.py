"""Every episode is handed out, ends once, and is blamed only for what it does, whatever happens to the workers."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bet import tasks
from bet.config import Split
from bet.protocol import Recipe
from bet.rollout import failed
from bet_ray.dispatch import FRUITLESS_DEATHS, POISON_DEATHS, Dispatcher, Finished
from bet_ray.results import EpisodeSource
from bet_ray.worker import Job, Lease, PoolError, Whereabouts, report

TASK = tasks.get("pusht")
SLOTS = 8
NODE = Whereabouts("node", "actor", 1)


def job(policy: str = "policy") -> Job:
    source = EpisodeSource(policy, TASK.protocol.digest, "torch", "report", "pusht", TASK.protocol.name, 0)
    return Job(source, (b"", b""), Recipe(TASK.protocol), Split.REPORT)


class Crew:
    """Workers without simulators: each finishes its leases, or dies with them."""

    def __init__(self, workers: int) -> None:
        self.dispatcher = Dispatcher(SLOTS, workers)
        self.leases: dict[int, list[Lease]] = {}
        self.finished: list[Finished] = []
        self.hired = 0
        for _ in range(workers):
            self.hire()

    def hire(self) -> None:
        self.dispatcher.join(self.hired)
        self.leases[self.hired] = []
        self.hired += 1

    def assign(self, worker: int) -> list[Lease]:
        new = self.dispatcher.assign(worker)
        self.leases[worker] += new
        assert self.dispatcher.has_leases(worker) == bool(self.leases[worker])
        return new

    def finish(self, worker: int, count: int) -> None:
        """The worker's first leases end, as slots are filled in order."""
        done, self.leases[worker] = self.leases[worker][:count], self.leases[worker][count:]
        reports = []
        for name in dict.fromkeys(lease.job for lease in done):
            mine = [lease for lease in done if lease.job == name]
            results = [failed(TASK.protocol, Split.REPORT, lease.index, "only made up") for lease in mine]
            rows = [(result, lease, 0.1) for result, lease in zip(results, mine, strict=True)]
            reports.append(report(job(), name, rows, NODE))
        self.finished += self.dispatcher.accept(worker, reports)

    def die(self, worker: int, *, hung: bool = False) -> None:
        del self.leases[worker]
        self.finished += self.dispatcher.lose(worker, hung=hung)
        self.hire()

    def execution(self) -> pa.Table:
        return pa.concat_tables([done.execution for done in self.finished])

    def run(self, poison: set[int], *, hangs: bool = False, limit: int = 10_000) -> None:
        """Until all is done. A worker that has started a poisonous episode dies of it."""
        for _ in range(limit):
            if self.dispatcher.idle:
                return
            for worker in list(self.leases):
                self.assign(worker)
                if poison & {lease.index for lease in self.leases[worker][:SLOTS]}:
                    self.die(worker, hung=hangs)
                else:
                    self.finish(worker, SLOTS)
        raise AssertionError("it does not end")


def ends(crew: Crew, name: str) -> dict[int, str]:
    """Episode -> why it ended, as the execution table says; each is there once."""
    rows = [row for done in crew.finished if done.job == name for row in done.execution.to_pylist()]
    found = {row["index"]: row["error"] for row in rows}
    assert len(found) == len(rows), "an episode was counted twice"
    return found


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_episode_ends_once(workers: int) -> None:
    crew = Crew(workers)
    first, second = crew.dispatcher.submit(job(), range(100)), crew.dispatcher.submit(job("other"), range(30))
    crew.run(set())
    assert sorted(ends(crew, first)) == list(range(100))
    assert sorted(ends(crew, second)) == list(range(30))
    assert set(crew.execution().column("attempts").to_pylist()) == {1}


def test_a_worker_has_more_leases_than_slots_until_little_is_left() -> None:
    crew = Crew(2)
    crew.dispatcher.submit(job(), range(100))
    assert len(crew.assign(0)) == 2 * SLOTS
    assert len(crew.assign(1)) == 2 * SLOTS
    crew.finish(0, 40)
    assert crew.assign(0)
    assert len(crew.leases[0]) > 2 * SLOTS  # it was quick: it must not run dry before its next report


def test_the_last_episodes_are_shared_among_the_workers() -> None:
    crew = Crew(4)
    crew.dispatcher.submit(job(), range(8))
    assert [len(crew.assign(worker)) for worker in range(4)] == [2, 2, 2, 2]


def test_the_tail_of_one_job_is_filled_by_the_next() -> None:
    crew = Crew(1)
    first, second = crew.dispatcher.submit(job(), range(5)), crew.dispatcher.submit(job("other"), range(50))
    assert [lease.job for lease in crew.assign(0)] == [first] * 5 + [second] * (2 * SLOTS - 5)


@settings(max_examples=60, deadline=None)
@given(poison=st.sets(st.integers(0, 119), max_size=5), workers=st.integers(1, 5))
def test_only_the_episodes_that_kill_their_workers_end_in_an_error(poison: set[int], workers: int) -> None:
    crew = Crew(workers)
    name = crew.dispatcher.submit(job(), range(120))
    crew.run(poison)
    found = ends(crew, name)
    assert sorted(found) == list(range(120))
    assert {index for index, error in found.items() if error and "died" in error} == poison


def test_an_episode_that_hangs_is_given_up_the_second_time_that_it_is_alone() -> None:
    crew = Crew(2)
    name = crew.dispatcher.submit(job(), range(60))
    crew.run({33}, hangs=True)
    alone = "the 2 workers that ran it alone hung"
    assert {index for index, error in ends(crew, name).items() if error == alone} == {33}


def test_an_episode_whose_worker_is_stopped_once_is_not_given_up_even_if_it_was_alone() -> None:
    crew = Crew(1)
    name = crew.dispatcher.submit(job(), [5])
    crew.assign(0)
    crew.die(0, hung=True)
    crew.run(set())
    assert ends(crew, name) == {5: "only made up"}


@pytest.mark.parametrize("workers", [1, 2, 12])
@pytest.mark.parametrize(("every", "hangs"), [(2, False), (3, False), (10, False), (10, True)])
def test_many_bad_episodes_do_not_keep_the_good_ones_from_ending(workers: int, every: int, hangs: bool) -> None:
    crew, poison = Crew(workers), set(range(0, 600, every))
    name = crew.dispatcher.submit(job(), range(600))
    crew.run(poison, hangs=hangs)
    found = ends(crew, name)
    assert sorted(found) == list(range(600))
    assert {index for index, error in found.items() if error and "alone" in error} == poison


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_workers_that_die_of_other_causes_cost_time_and_no_episode(data: st.DataObject) -> None:
    crew = Crew(3)
    name = crew.dispatcher.submit(job(), range(150))
    kills = data.draw(st.integers(0, 12), label="kills")
    crew.assign(0)
    crew.finish(0, 1)
    for _ in range(kills):
        workers = sorted(crew.leases)
        for worker in workers:
            crew.assign(worker)
        crew.die(data.draw(st.sampled_from(workers), label="victim"))
        lucky = data.draw(st.sampled_from(sorted(crew.leases)), label="lucky")
        crew.assign(lucky)
        crew.finish(lucky, data.draw(st.integers(0, SLOTS), label="finished"))
    crew.run(set())
    found = ends(crew, name)
    assert sorted(found) == list(range(150))
    assert not {error for error in found.values() if error != "only made up"} or kills >= POISON_DEATHS + 2


def test_attempts_are_counted() -> None:
    crew = Crew(1)
    crew.dispatcher.submit(job(), range(4))
    crew.assign(0)
    crew.die(0)
    crew.run(set())
    assert crew.execution().column("attempts").to_pylist() == [2, 2, 2, 2]


def test_workers_that_do_nothing_but_die_end_the_pool() -> None:
    crew = Crew(2)
    crew.dispatcher.submit(job(), range(200))
    with pytest.raises(PoolError, match="do nothing but die"):
        crew.run(set(range(200)))
    assert crew.hired <= 2 * FRUITLESS_DEATHS + 3


def test_retries_come_before_what_was_never_tried() -> None:
    crew = Crew(1)
    crew.dispatcher.submit(job(), range(3))
    crew.assign(0)
    crew.dispatcher.submit(job("other"), range(40))
    crew.die(0)
    (worker,) = crew.leases
    assert [lease.index for lease in crew.assign(worker)[:3]] == [0, 1, 2]


@pytest.mark.parametrize("indices", [list(range(20)), list(range(20))[::-1]])
def test_episodes_start_in_the_order_that_was_asked_for(indices: list[int]) -> None:
    crew = Crew(1)
    crew.dispatcher.submit(job(), indices)
    assert [lease.index for lease in crew.assign(0)] == indices[: 2 * SLOTS]


def test_workers_that_come_later_find_their_share() -> None:
    crew = Crew(0)
    crew.dispatcher = Dispatcher(SLOTS, 2)
    crew.dispatcher.submit(job(), range(12))
    crew.hire()
    assert len(crew.assign(0)) == 6
    crew.hire()
    assert len(crew.assign(1)) == 6


def test_an_episode_that_kills_workers_fresh_from_their_rest_is_given_up_too() -> None:
    crew = Crew(2)
    name = crew.dispatcher.submit(job(), [3])
    for number in range(20):
        if not crew.dispatcher.idle:
            assert crew.assign(number)
            crew.finished += crew.dispatcher.lose(number, began=False)
            crew.hire()
    assert ends(crew, name) == {3: "the 3 workers that ran it alone died"}


def test_a_worker_that_died_while_it_rested_is_held_against_no_episode() -> None:
    crew = Crew(4)
    name = crew.dispatcher.submit(job(), [7])
    for worker in range(3):
        crew.assign(worker)
        del crew.leases[worker]
        crew.finished += crew.dispatcher.lose(worker, began=False)
        crew.hire()
    crew.run(set())
    assert ends(crew, name) == {7: "only made up"}
    assert crew.execution().column("attempts").to_pylist() == [1]


def test_a_policy_none_of_whose_episodes_ends_is_given_up_where_others_do_well() -> None:
    crew = Crew(2)
    well = crew.dispatcher.submit(job(), range(40))
    crew.run(set())
    bad = crew.dispatcher.submit(job("other"), range(100, 400))
    crew.run(set(range(100, 400)))
    assert set(ends(crew, well).values()) == {"only made up"}
    assert sorted(ends(crew, bad)) == list(range(100, 400))
    assert crew.hired < 6 * FRUITLESS_DEATHS
    assert crew.dispatcher.waiting == 0
