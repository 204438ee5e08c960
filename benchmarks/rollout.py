"""Policy steps per second on PushT: the serial evaluator, lockstep evaluation, this engine, and its bounds, in one run.

`python -m benchmarks.rollout [RUN] [--rounds N] [--seconds S]`; RUN is a trained run or policy directory. Without it
the network has the size BeT uses for block pushing, and nearly random weights.

Everyone runs the same weights on the same episodes, from their first step to their last; a step counts once, and only
until its own episode ends. Rivals are leaner here than where they come from (no images, no progress bars, no copies).
"""

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from enum import StrEnum
from functools import partial
from typing import Any

import gym_pusht  # noqa: F401  (registers the environment)
import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.contest import Contestant, best, compete, machine, prepared, ratio, standings, verdict
from bet import tasks
from bet.codebook import decode
from bet.config import Split, make_config
from bet.envs.pusht import PushTVectorEnv
from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_observations
from bet.normalizer import Normalizer
from bet.policy import Policy, PolicyError
from bet.priors import make_model
from bet.protocol import Protocol, Recipe, episode_randomness
from bet.rollout import rollout
from bet_ray.pool import Pool
from bet_ray.session import session
from bet_ray.worker import Job

SLOTS = 32
LOCKSTEP = (8, 32)  # environments
ACTORS = (1, 2)
MAX_STEPS = 100  # of an episode here; the task's own 300 would only make the run longer
TARGET_SERIAL, TARGET_LOCKSTEP = 8.0, 3.0  # for the engine with the most actors


class Kind(StrEnum):
    SERIAL = "serial, as BeT evaluates"
    LOCKSTEP = "lockstep, as LeRobot evaluates"
    ENGINE = "bet-ray"
    BOUND = "bounds, one core"


RIVALS = (Kind.SERIAL, Kind.LOCKSTEP)


# The policy.


def pushing_policy(seed: int = 0) -> Policy:
    """Random weights, with the offsets alone fitted (least squares) so that the agent pushes the block about.

    A wholly random policy flies about in free space, where a physics step costs a third of one in contact.
    """
    config = make_config(
        "pusht",
        {
            "model.layers": 4,
            "model.heads": 4,
            "model.width": 72,
            "model.window": 5,
            "codebook.bins": 24,
            "data.observation": PushTLayout.STATE.value,
        },
    )
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


def gym_pusht_env(max_steps: int) -> gymnasium.Env:
    return Freeze(gymnasium.make("gym_pusht/PushT-v0", max_episode_steps=max_steps, disable_env_checker=True))


def gym_pusht_envs(count: int, max_steps: int, *, processes: bool) -> VectorEnv:
    """LeRobot's vector environments; with processes, one for each environment."""
    factories = [partial(gym_pusht_env, max_steps)] * count
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

    def __init__(self, policy: Policy, protocol: Protocol) -> None:
        self.policy, self.protocol = policy, protocol
        self.layout = PushTLayout(policy.config.data.observation)
        self.env = gym_pusht_env(protocol.max_steps)

    def run(self, episodes: int) -> int:
        return sum(map(self._episode, range(episodes)))

    def _episode(self, index: int) -> int:
        history: deque[NDArray[np.float32]] = deque(maxlen=self.policy.window)
        state, _ = self.env.reset(seed=env_seed(self.protocol, index))
        steps, done = 0, False
        while not done:
            history.append(pusht_observations(state[None], self.layout))
            state, _, terminated, truncated, _ = self.env.step(act_plainly(self.policy, history)[0])
            steps, done = steps + 1, terminated or truncated
        return steps


class Lockstep:
    """A batch of environments stepped until the longest of their episodes ends, then the next batch."""

    def __init__(self, policy: Policy, protocol: Protocol, envs: VectorEnv) -> None:
        self.policy, self.protocol, self.envs = policy, protocol, envs
        self.layout = PushTLayout(policy.config.data.observation)

    def run(self, episodes: int) -> int:
        return sum(map(self._batch, range(0, episodes, self.envs.num_envs)))

    def _batch(self, first: int) -> int:
        history: deque[NDArray[np.float32]] = deque(maxlen=self.policy.window)
        seeds = [env_seed(self.protocol, first + slot) for slot in range(self.envs.num_envs)]
        states, _ = self.envs.reset(seed=seeds)  # pyright: ignore[reportArgumentType]
        done = np.zeros(self.envs.num_envs, dtype=bool)
        steps = 0
        while not done.all():
            history.append(pusht_observations(states, self.layout))
            states, _, terminated, truncated, _ = self.envs.step(act_plainly(self.policy, history))
            steps += int((~done).sum())
            done |= terminated | truncated
        return steps


def env_seed(protocol: Protocol, index: int) -> int:
    """The seed of an episode's environment; gym-pusht then starts it in the same state as ours."""
    return episode_randomness(protocol, Split.REPORT, index)[0]


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
        self.actions = np.zeros((max(self.lengths), len(self.lengths), 2), np.float32)
        for slot, trajectory in enumerate(trajectories):
            self.actions[: self.lengths[slot], slot] = trajectory.actions
        self.env = PushTVectorEnv(len(self.lengths), PushTLayout(policy.config.data.observation), protocol.max_steps)
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
        batches = episodes * MAX_STEPS // self.batch_size
        for _ in range(batches):
            self.policy.act(self.history, self.full, self.uniforms, self.batch_size)
        return batches * self.batch_size

    @torch.inference_mode()
    def reading(self, episodes: int) -> int:
        """The network of full batches, and nothing else."""
        batches = episodes * MAX_STEPS // self.batch_size
        observations = torch.from_numpy(self.policy.observation_normalizer.normalize(self.history))
        lengths = torch.from_numpy(self.full)
        for _ in range(batches):
            self.policy.model.read(observations, lengths)
        return batches * self.batch_size


# The contest.


@contextmanager
def contestants(policy: Policy, protocol: Protocol) -> Iterator[list[Contestant]]:
    """Everyone, ready to run."""
    with ExitStack() as stack:
        # Processes are forked before torch or Ray have started a thread.
        vectors = {
            (count, processes): stack.enter_context(
                closing(gym_pusht_envs(count, protocol.max_steps, processes=processes))
            )
            for processes in (True, False)
            for count in LOCKSTEP
        }
        found = [Contestant(Kind.SERIAL, "1 env, batch 1", Serial(policy, protocol).run, 1)]
        for (count, _), envs in sorted(vectors.items(), key=lambda item: item[0][::-1]):
            name = f"{type(envs).__name__}, {count} envs"
            found.append(Contestant(Kind.LOCKSTEP, name, Lockstep(policy, protocol, envs).run, count))
        found.append(
            Contestant(Kind.ENGINE, f"in process, {SLOTS} slots", partial(in_process, policy, protocol), SLOTS)
        )
        stack.enter_context(session(max(ACTORS)))
        job = Job.of(policy, Recipe(protocol), Split.REPORT)
        for actors in ACTORS:
            pool = stack.enter_context(Pool(actors, SLOTS, cpus_per_actor=min(1.0, max(ACTORS) / sum(ACTORS))))
            name = f"Ray pool, {actors} actor{'s' * (actors > 1)} x {SLOTS} slots"
            found.append(Contestant(Kind.ENGINE, name, partial(on_pool, pool, job), actors * SLOTS))
        bounds = Bounds(policy, protocol)
        found += [
            Contestant(Kind.BOUND, f"simulation alone, {SLOTS} slots", bounds.simulation, SLOTS),
            Contestant(Kind.BOUND, f"Policy.act alone, batch {bounds.batch_size}", bounds.acting, SLOTS),
            Contestant(Kind.BOUND, f"network alone, batch {bounds.batch_size}", bounds.reading, SLOTS),
        ]
        yield found


def show(field: Sequence[Contestant], rates: Sequence[Sequence[float]], console: Console) -> None:
    serial = next(found for who, found in zip(field, rates, strict=True) if who.kind is Kind.SERIAL)
    locksteps = [found for who, found in zip(field, rates, strict=True) if who.kind is Kind.LOCKSTEP]
    best_lockstep = best(locksteps)
    compared = {
        "x serial": lambda found: f"{ratio(found, serial):.2f}",
        "x best lockstep": lambda found: f"{ratio(found, best_lockstep):.2f}",
    }
    console.print(standings(field, rates, "steps/s", compared))
    name, found = [(who.name, f) for who, f in zip(field, rates, strict=True) if who.kind is Kind.ENGINE][-1]
    console.print(verdict(name, ratio(found, serial), "serial", TARGET_SERIAL))
    console.print(verdict(name, ratio(found, best_lockstep), "the best lockstep", TARGET_LOCKSTEP))


def main() -> None:
    parser = argparse.ArgumentParser(description="Policy steps per second on PushT, side by side.")
    parser.add_argument("run", nargs="?", help="a trained run or policy directory (default: a made-up policy)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn, about")
    options = parser.parse_args()
    console = Console(width=110, highlight=False)
    torch.set_num_threads(1)  # no thread of torch's may run yet when processes are forked
    try:
        policy = Policy.load(options.run) if options.run else pushing_policy()
    except PolicyError as error:
        parser.error(str(error))
    if policy.config.task != "pusht":
        parser.error(f"{options.run} is a policy for {policy.config.task}, not for pusht")
    protocol = tasks.get("pusht").protocol.model_copy(update={"max_steps": MAX_STEPS})
    model = policy.config.model
    console.print(
        f"{machine()}, {policy.numerics}\n"
        f"policy: {options.run or 'made up, pushes the block about'}; {model.layers} layers, {model.heads} heads, "
        f"width {model.width}, window {model.window}, {policy.config.codebook.bins} bins\n"
        f"episodes of at most {protocol.max_steps} steps"
    )
    with contestants(policy, protocol) as everyone:
        with console.status("warming up"):
            contest = [prepared(one, options.seconds, rival=one.kind in RIVALS) for one in everyone]
        rates = compete(contest, options.rounds, console)
    show([contestant for contestant, _ in contest], rates, console)


if __name__ == "__main__":
    main()
