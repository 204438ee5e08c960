"""Policy steps per second: the serial evaluator, lockstep evaluation, this engine, and its bounds, in one run.

`python -m benchmarks.evaluation [TASK]... [--run RUN] [--rounds N] [--seconds S] [--out DIR]`

Without a task, all that exist and one of gymnasium's. RUN is a trained run or policy directory; without it the network
has the size BeT uses for block pushing, and nearly random weights.

Everyone runs the same weights on the same episodes, from their first step to their last; a step counts once, and only
until its own episode ends. Rivals are leaner here than where they come from (no images, no progress bars, no copies).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import gym_pusht  # noqa: F401  (registers the environment)
import gymnasium
import numpy as np
import plotly.graph_objects as go
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from rich.console import Console

from benchmarks.contest import Contestant, best, compete, machine, prepared, ratio, standings, verdict
from bet import tasks
from bet.codebook import decode
from bet.config import Split, make_config
from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_observations
from bet.normalizer import Normalizer
from bet.policy import Policy
from bet.priors import make_model
from bet.protocol import Protocol, Recipe, episode_randomness
from bet.rollout import rollout
from bet.tasks import TASKS, SimulatedTask
from bet_ray.evaluation import load_policy
from bet_ray.page.style import BLUE, FAINT, GREEN, VERMILION, styled
from bet_ray.pool import Pool
from bet_ray.session import session
from bet_ray.worker import Job, Usage

SLOTS = 32
LOCKSTEP = (8, 32)  # environments
ACTORS = (1, 2)
POOL_ROUNDS = 8  # episodes of a slot in a turn of the pools, at least
MAX_STEPS = 100  # of an episode here; the task's own limit would only make the run longer
TARGET_SERIAL, TARGET_LOCKSTEP = 15.0, 6.0  # for the engine with the most actors
TARGET_OVERHEAD, TARGET_UTILISATION = 0.08, 0.97
GYMNASIUM = "Pendulum-v1"  # stands for an environment of yours: simulated one by one, in Python
PUSHT = "pusht"
SIMULATED = [task.name for task in TASKS.values() if isinstance(task, SimulatedTask)]


class Kind(StrEnum):
    SERIAL = "serial, as BeT evaluates"
    LOCKSTEP = "lockstep, as LeRobot evaluates"
    ENGINE = "bet-ray"
    BOUND = "bounds, one core"


RIVALS = (Kind.SERIAL, Kind.LOCKSTEP)


# The policy.

SMALL = {"model.layers": 4, "model.heads": 4, "model.width": 72, "model.window": 5, "codebook.bins": 24}


def made_up_policy(task: SimulatedTask) -> Policy:
    """Of the size BeT uses for block pushing, with random weights."""
    if task.name == PUSHT:
        return pushing_policy()
    config = make_config(task.name, SMALL)
    generator = torch.Generator().manual_seed(0)
    observation, action = task.boxes(config.data.observation)
    obs_dim, act_dim = int(np.prod(observation.shape)), int(np.prod(action.shape))
    model = make_model(config.model, obs_dim, act_dim, config.codebook.bins)
    model.initialize(generator)
    centers = torch.rand(config.codebook.bins, act_dim, generator=generator) * 2 - 1
    seen, done = (Normalizer(np.zeros(size, np.float32), np.ones(size, np.float32)) for size in (obs_dim, act_dim))
    return Policy(config, model.requires_grad_(False), centers, seen, done, "")


def pushing_policy(seed: int = 0) -> Policy:
    """Random weights, with the offsets alone fitted (least squares) so that the agent pushes the block about.

    A wholly random policy flies about in free space, where a physics step costs a third of one in contact.
    """
    config = make_config(PUSHT, {**SMALL, "data.observation": PushTLayout.STATE.value})
    bins, window = config.codebook.bins, config.model.window
    generator = torch.Generator().manual_seed(seed)
    model = make_model(config.model, PushTLayout.STATE.dim, 2, bins)
    model.initialize(generator)
    half = np.float32(PUSHT_SIZE / 2)

    # Observations in network units: the block stays, the agent moves; wanted: the block's place, a bit to the middle.
    count = 4096
    observations = torch.empty(count, window, PushTLayout.STATE.dim)
    observations[..., :2] = torch.rand(count, window, 2, generator=generator) * 2 - 1
    observations[..., 2:4] = torch.rand(count, 1, 2, generator=generator) * 1.6 - 0.8
    angle = torch.rand(count, 1, generator=generator) * 2 * torch.pi
    observations[..., 4], observations[..., 5] = angle.cos(), angle.sin()
    wanted = 0.7 * observations[:, -1, 2:4]  # (count, 2)
    seen: list[torch.Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -1]))
    with torch.no_grad():
        model(observations)
        hook.remove()
        weights = torch.linalg.lstsq(seen[0], wanted).solution.T  # (2, width)
        model.head.weight[bins:] = weights.repeat(bins, 1)
    return Policy(
        config,
        model.requires_grad_(False),
        torch.randn(bins, 2, generator=generator) * 0.2,  # the noise around what is wanted: 50 pixels
        Normalizer(np.array([half] * 4 + [0, 0], np.float32), np.array([half] * 4 + [1, 1], np.float32)),
        Normalizer(np.array([half] * 2), np.array([half] * 2)),
        "",
    )


# The rivals.


class Freeze(gymnasium.Wrapper):
    """Rests once its episode has ended, until a reset with a seed: what LeRobot does to environments that are done."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._last: tuple[Any, ...] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self._last is not None and seed is None:  # the vector environment's own reset
            return self._last[0], self._last[-1]
        self._last = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self._last is not None:
            return self._last
        result = self.env.step(action)
        if result[2] or result[3]:
            self._last = result
        return result


class OneSlot(gymnasium.Env):
    """One slot of our simulator, where a task has no other."""

    def __init__(self, task: str, layout: str, max_steps: int) -> None:
        self._env = tasks.simulated(task).make_env(1, layout, max_steps)
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observations, info = self._env.reset(seed=[seed], options=options)
        return observations[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, truncated, _ = self._env.step(np.asarray(action)[None])
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}


@dataclass(frozen=True)
class Arena:
    """Where rivals run a task: the environment that its users have."""

    task: str
    layout: str
    max_steps: int

    def make(self) -> gymnasium.Env:
        """One environment, to be reset with the seed of an episode: it then starts in the same state as ours."""
        ours = self.task in SIMULATED and self.task != PUSHT
        if ours:
            return Freeze(OneSlot(self.task, self.layout, self.max_steps))
        name = "gym_pusht/PushT-v0" if self.task == PUSHT else self.task
        return Freeze(gymnasium.make(name, max_episode_steps=self.max_steps, disable_env_checker=True))

    def observations(self, seen: NDArray) -> NDArray[np.float32]:
        """What the policy sees, (n, obs_dim), of what the environment shows, (n, ...)."""
        if self.task == PUSHT:
            return pusht_observations(seen, PushTLayout(self.layout))
        return seen.reshape(len(seen), -1).astype(np.float32)

    def actions(self, wanted: NDArray[np.float32], space: spaces.Space) -> NDArray:
        """Actions (n, act_dim) that the environment takes."""
        assert isinstance(space, spaces.Box)
        return wanted if self.task == PUSHT else np.clip(wanted, space.low, space.high).astype(space.dtype)


def vector_env(arena: Arena, count: int, *, processes: bool) -> VectorEnv:
    """LeRobot's vector environments; with processes, one for each environment."""
    factories = [arena.make] * count
    if processes:
        # LeRobot starts them from a fork server, which here would import torch in each; their speed is the same.
        return AsyncVectorEnv(factories, context="fork", autoreset_mode=AutoresetMode.NEXT_STEP)
    return SyncVectorEnv(factories, autoreset_mode=AutoresetMode.NEXT_STEP)


@torch.inference_mode()
def act_plainly(policy: Policy, history: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The last observations, each (n, obs_dim) -> actions (n, act_dim): a forward of all steps, a multinomial draw."""
    observations = policy.observation_normalizer.normalize(np.stack(history, axis=1))  # (n, T, obs_dim)
    logits, offsets = policy.model(torch.from_numpy(observations))
    bins = torch.multinomial(logits[:, -1].softmax(-1), 1).squeeze(-1)  # (n,)
    actions = decode(bins, offsets[torch.arange(len(bins)), -1, bins], policy.centers)
    return policy.action_normalizer.denormalize(actions.numpy())


class Serial:
    """One environment and a history of observations, as the original code has it."""

    def __init__(self, policy: Policy, protocol: Protocol, arena: Arena) -> None:
        self.policy, self.protocol, self.arena = policy, protocol, arena
        self.env = arena.make()

    def run(self, episodes: int) -> int:
        return sum(map(self._episode, range(episodes)))

    def _episode(self, index: int) -> int:
        history: deque[NDArray[np.float32]] = deque(maxlen=self.policy.window)
        state, _ = self.env.reset(seed=env_seed(self.protocol, index))
        steps, done = 0, False
        while not done:
            history.append(self.arena.observations(state[None]))
            action = self.arena.actions(act_plainly(self.policy, history), self.env.action_space)[0]
            state, _, terminated, truncated, _ = self.env.step(action)
            steps, done = steps + 1, terminated or truncated
        return steps


class Lockstep:
    """A batch of environments stepped until the longest of their episodes ends, then the next batch."""

    def __init__(self, policy: Policy, protocol: Protocol, arena: Arena, envs: VectorEnv) -> None:
        self.policy, self.protocol, self.arena, self.envs = policy, protocol, arena, envs

    def run(self, episodes: int) -> int:
        return sum(map(self._batch, range(0, episodes, self.envs.num_envs)))

    def _batch(self, first: int) -> int:
        history: deque[NDArray[np.float32]] = deque(maxlen=self.policy.window)
        seeds = [env_seed(self.protocol, first + slot) for slot in range(self.envs.num_envs)]
        states, _ = self.envs.reset(seed=seeds)  # pyright: ignore[reportArgumentType]
        done = np.zeros(self.envs.num_envs, dtype=bool)
        steps = 0
        while not done.all():
            history.append(self.arena.observations(states))
            actions = self.arena.actions(act_plainly(self.policy, history), self.envs.single_action_space)
            states, _, terminated, truncated, _ = self.envs.step(actions)
            steps += int((~done).sum())
            done |= terminated | truncated
        return steps


def env_seed(protocol: Protocol, index: int) -> int:
    """The seed of an episode's environment, as gymnasium's own take it."""
    return episode_randomness(protocol, Split.REPORT, index)[0] % 2**31


# This engine.


def in_process(policy: Policy, protocol: Protocol, episodes: int) -> int:
    return sum(result.length for result in rollout(policy, Recipe(protocol), Split.REPORT, range(episodes), SLOTS))


def on_pool(pool: Pool, job: Job, episodes: int) -> int:
    """One job, from its submission to its last row."""
    pool.submit(job, range(episodes))
    steps = 0
    while not pool.idle:
        steps += sum(int(finished.episodes.column("length").to_numpy().sum()) for finished in pool.poll())
    return steps


# What it could reach at most.


class Bounds:
    """The parts of the engine by themselves, on what they meet in its first episodes."""

    def __init__(self, policy: Policy, protocol: Protocol) -> None:
        self.policy, self.batch_size = policy, protocol.batch_size
        results = sorted(rollout(policy, Recipe(protocol), Split.REPORT, range(SLOTS), SLOTS), key=lambda r: r.index)
        trajectories = [result.trajectory for result in results if result.trajectory is not None]
        self.lengths = [len(trajectory.actions) for trajectory in trajectories]
        self.seeds = [result.seed for result in results if result.trajectory is not None]
        self.actions = np.zeros((max(self.lengths), len(self.lengths), policy.model.act_dim), np.float32)
        for slot, trajectory in enumerate(trajectories):
            self.actions[: self.lengths[slot], slot] = trajectory.actions
        task, layout = tasks.simulated(protocol.task), policy.config.data.observation
        self.env = task.make_env(len(self.lengths), layout, protocol.max_steps)
        self.steps = max(self.lengths)
        rows = np.resize(trajectories[0].observations, (self.batch_size, policy.window, policy.model.obs_dim))
        self.history = rows.astype(np.float32)
        self.full = np.full(self.batch_size, policy.window)
        self.uniforms = np.linspace(0, 1, self.batch_size, endpoint=False)

    def simulation(self, episodes: int) -> int:
        """The same episodes with their actions known."""
        steps = 0
        for _ in range(0, episodes, SLOTS):
            self.env.reset(seed=self.seeds)
            for actions in self.actions:
                self.env.step(actions)
            steps += sum(self.lengths)
        return steps

    def acting(self, episodes: int) -> int:
        """Policy.act of full batches."""
        batches = -(-episodes * self.steps // self.batch_size)
        for _ in range(batches):
            self.policy.act(self.history, self.full, self.uniforms, self.batch_size)
        return batches * self.batch_size

    @torch.inference_mode()
    def reading(self, episodes: int) -> int:
        """The network of full batches, and nothing else."""
        batches = -(-episodes * self.steps // self.batch_size)
        observations = torch.from_numpy(self.policy.observation_normalizer.normalize(self.history))
        lengths = torch.from_numpy(self.full)
        for _ in range(batches):
            self.policy.model.read(observations, lengths)
        return batches * self.batch_size


# The contest.


@dataclass
class Contest:
    """Everyone, ready to run, and how busy the engine's workers were meanwhile."""

    contestants: list[Contestant]
    pools: dict[str, Pool]


@contextmanager
def contest(policy: Policy, protocol: Protocol) -> Iterator[Contest]:
    """Everyone's environments and processes are there for as long as the block."""
    arena = Arena(protocol.task, policy.config.data.observation, protocol.max_steps)
    with ExitStack() as stack:
        # Processes are forked before torch or Ray have started a thread.
        vectors = {
            (count, processes): stack.enter_context(closing(vector_env(arena, count, processes=processes)))
            for processes in (True, False)
            for count in LOCKSTEP
        }
        found = [Contestant(Kind.SERIAL, "1 env, batch 1", Serial(policy, protocol, arena).run, 1)]
        for (count, _), envs in sorted(vectors.items(), key=lambda item: item[0][::-1]):
            name = f"{type(envs).__name__}, {count} envs"
            found.append(Contestant(Kind.LOCKSTEP, name, Lockstep(policy, protocol, arena, envs).run, count))
        found.append(
            Contestant(Kind.ENGINE, f"in process, {SLOTS} slots", partial(in_process, policy, protocol), SLOTS)
        )
        stack.enter_context(session(max(ACTORS)))
        job, pools = Job.of(policy, Recipe(protocol), Split.REPORT), {}
        for actors in ACTORS:
            pool = stack.enter_context(Pool(actors, SLOTS, cpus_per_actor=min(1.0, max(ACTORS) / sum(ACTORS))))
            name = f"Ray pool, {actors} actor{'s' * (actors > 1)} x {SLOTS} slots"
            pools[name] = pool
            # Long enough that its tail is short: an evaluation is a thousand episodes, not a hundred.
            found.append(Contestant(Kind.ENGINE, name, partial(on_pool, pool, job), POOL_ROUNDS * actors * SLOTS))
        bounds = Bounds(policy, protocol)
        found += [
            Contestant(Kind.BOUND, f"simulation alone, {SLOTS} slots", bounds.simulation, SLOTS),
            Contestant(Kind.BOUND, f"Policy.act alone, batch {bounds.batch_size}", bounds.acting, SLOTS),
            Contestant(Kind.BOUND, f"network alone, batch {bounds.batch_size}", bounds.reading, SLOTS),
        ]
        yield Contest(found, pools)


@dataclass(frozen=True)
class Rate:
    """What a contestant reached, in policy steps per second."""

    kind: Kind
    name: str
    rounds: list[float]
    serial: float
    """Times the serial evaluator, the median over rounds."""
    lockstep: float
    """Times the best lockstep."""


@dataclass(frozen=True)
class Result:
    """One task's contest."""

    task: str
    rates: list[Rate]
    usage: dict[str, Usage]


def run_contest(policy: Policy, protocol: Protocol, rounds: int, seconds: float, console: Console) -> Result:
    with contest(policy, protocol) as everyone:
        with console.status("warming up"):
            field = [prepared(one, seconds, rival=one.kind in RIVALS) for one in everyone.contestants]
        for pool in everyone.pools.values():
            pool.take_usage()
        rates = compete(field, rounds, console)
        usage = {name: pool.take_usage() for name, pool in everyone.pools.items()}
    contestants = [contestant for contestant, _ in field]
    serial = next(found for who, found in zip(contestants, rates, strict=True) if who.kind is Kind.SERIAL)
    lockstep = best([found for who, found in zip(contestants, rates, strict=True) if who.kind is Kind.LOCKSTEP])
    compared = {
        "x serial": lambda found: f"{ratio(found, serial):.2f}",
        "x best lockstep": lambda found: f"{ratio(found, lockstep):.2f}",
    }
    console.print(standings(contestants, rates, "steps/s", compared))
    reached = [
        Rate(Kind(who.kind), who.name, found, ratio(found, serial), ratio(found, lockstep))
        for who, found in zip(contestants, rates, strict=True)
    ]
    return Result(protocol.task, reached, usage)


def judge(result: Result, console: Console) -> None:
    """The targets are PushT's; elsewhere the numbers speak."""
    engine = [rate for rate in result.rates if rate.kind is Kind.ENGINE][-1]
    usage = result.usage[engine.name]
    if result.task == PUSHT:
        console.print(verdict(engine.name, engine.serial, "serial", TARGET_SERIAL))
        console.print(verdict(engine.name, engine.lockstep, "the best lockstep", TARGET_LOCKSTEP))
    seconds = usage.seconds
    console.print(
        f"{engine.name}: {usage.simulating / seconds:.1%} simulation, {usage.acting / seconds:.1%} inference, "
        f"{usage.overhead:.1%} the rest (target {TARGET_OVERHEAD:.0%}); slots busy {usage.utilisation_before_tail:.1%} "
        f"before the tail (target {TARGET_UTILISATION:.0%}), {usage.utilisation:.1%} in all"
    )


def figure(results: Sequence[dict[str, Any]]) -> go.Figure:
    """A panel for each task: steps per second of everyone."""
    colours = {Kind.SERIAL: FAINT, Kind.LOCKSTEP: VERMILION, Kind.ENGINE: BLUE, Kind.BOUND: GREEN}
    panels = make_subplots(rows=len(results), cols=1, subplot_titles=[result["task"] for result in results])
    for row, result in enumerate(results, start=1):
        for kind, colour in colours.items():
            mine = [rate for rate in result["rates"] if rate["kind"] == kind]
            middle = [float(np.median(rate["rounds"])) for rate in mine]
            panels.add_trace(
                go.Bar(
                    x=middle,
                    y=[f"{rate['name']}   <b>{value:,.0f}</b>" for rate, value in zip(mine, middle, strict=True)],
                    orientation="h",
                    name=kind.value,
                    marker_color=colour,
                    showlegend=row == 1,
                    error_x={
                        "array": [max(rate["rounds"]) - value for rate, value in zip(mine, middle, strict=True)],
                        "arrayminus": [value - min(rate["rounds"]) for rate, value in zip(mine, middle, strict=True)],
                        "color": FAINT,
                    },
                ),
                row=row,
                col=1,
            )
        panels.update_xaxes(title_text="policy steps per second", row=row, col=1)
        panels.update_yaxes(autorange="reversed", row=row, col=1)
    panels = styled(panels, height=110 + 330 * len(results), top=40)
    return panels.update_layout(margin={"l": 270}, barmode="overlay")


def main() -> None:
    parser = argparse.ArgumentParser(description="Policy steps per second, side by side.")
    parser.add_argument("task", nargs="*", help=f"tasks (default: {', '.join(SIMULATED)} and {GYMNASIUM})")
    parser.add_argument("--run", type=Path, help="a trained run or policy directory (default: a made-up policy)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn, about")
    parser.add_argument("--out", type=Path, help="folder for evaluation.json and evaluation.html")
    options = parser.parse_args()
    if options.run:
        options.task = [load_policy(options.run).config.task]
    names = options.task or [*SIMULATED, GYMNASIUM]
    if len(names) == 1:
        found = [one_task(names[0], options)]
    else:  # a process for each, for rivals fork theirs before Ray starts threads
        found = []
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                settings = ["--rounds", str(options.rounds), "--seconds", str(options.seconds), "--out", folder]
                subprocess.run([sys.executable, "-m", "benchmarks.evaluation", name, *settings], check=True)
                found += json.loads((Path(folder) / "evaluation.json").read_text())["tasks"]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        written = {"machine": machine(), "tasks": found}
        (options.out / "evaluation.json").write_text(json.dumps(written, indent=2) + "\n")
        figure(found).write_html(options.out / "evaluation.html", include_plotlyjs=True)


def one_task(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one task's contest and print it; its numbers."""
    console = Console(width=110, highlight=False)
    torch.set_num_threads(1)  # no thread of torch's may run yet when processes are forked
    task = tasks.simulated(name)
    policy = load_policy(options.run) if options.run else made_up_policy(task)
    steps = min(task.protocol.max_steps, MAX_STEPS)
    protocol = task.protocol.model_copy(update={"max_steps": steps})
    model = policy.config.model
    console.print(
        f"{name} · {machine()}, {policy.numerics}\n"
        f"policy: {options.run or 'made up'}; {model.layers} layers, {model.heads} heads, "
        f"width {model.width}, window {model.window}, {policy.config.codebook.bins} bins; "
        f"episodes of at most {steps} steps"
    )
    result = run_contest(policy, protocol, options.rounds, options.seconds, console)
    judge(result, console)
    return {
        "task": name,
        "rates": [vars(rate) for rate in result.rates],
        "usage": {name: vars(usage) for name, usage in result.usage.items()},
    }


if __name__ == "__main__":
    main()
