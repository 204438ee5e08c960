"""A gymnasium environment does in our slots what it does without them, and one that does not fit is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from bet.config import ConfigError
from bet.envs.gym import SEEDS, GymVectorEnv, SimulationError, registered
from bet.envs.vector import RenderError


class Ramp(gymnasium.Env):
    """Counts its steps; the tests below vary what it says about them."""

    observation_space: spaces.Space = spaces.Box(0, 100, (2, 2), np.float64)
    action_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)
    length, cut = 10**9, 10**9  # steps after which it terminates, truncates

    def info(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seed, self.steps, self.actions = seed, 0, []
        return np.full((2, 2), self.steps), {}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        self.actions.append(action)
        reward = 1.0
        return np.full((2, 2), self.steps), reward, self.steps >= self.length, self.steps >= self.cut, self.info()


Register = Callable[..., str]


@pytest.fixture
def register() -> Iterator[Register]:
    """Registers a `Ramp` with other attributes for one test; gives its id."""
    made: list[str] = []

    def add(max_episode_steps: int | None = 5, reward_threshold: float | None = None, **attributes: Any) -> str:
        kind: Any = type("Variant", (Ramp,), attributes | {"__module__": __name__})
        made.append(f"Ramp{len(made)}-v0")
        gymnasium.register(made[-1], kind, reward_threshold, max_episode_steps=max_episode_steps)
        return made[-1]

    registered.cache_clear()
    yield add
    registered.cache_clear()
    for env_id in made:
        del gymnasium.registry[env_id]


def inside(env: GymVectorEnv, slot: int = 0) -> Ramp:
    unwrapped = env._envs[slot].unwrapped
    assert isinstance(unwrapped, Ramp)
    return unwrapped


def played(env_id: str, action: float = 0.0) -> list[tuple[float, bool, bool]]:
    """Success, terminated and truncated after each step of an episode."""
    env = GymVectorEnv(1, env_id)
    env.reset(seed=0)
    steps = []
    while not steps or not (steps[-1][1] or steps[-1][2]):
        *_, terminated, truncated, info = env.step(np.full((1, 1), action))
        steps.append((info["success"][0], bool(terminated[0]), bool(truncated[0])))
    return steps


# The same episodes as without us.


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_an_episode_is_the_one_of_gymnasium_make_whatever_runs_beside_it(env_id: str) -> None:
    plain, ours = gymnasium.make(env_id), GymVectorEnv(3, env_id)
    seed = 2**64 - 5
    space = ours.single_action_space
    assert isinstance(space, spaces.Box)
    expected, _ = plain.reset(seed=seed % SEEDS)
    observations, _ = ours.reset(seed=[1, seed, 2])
    random = np.random.default_rng(0)
    for _ in range(60):
        np.testing.assert_array_equal(observations[1], expected, strict=True)
        actions = random.uniform(1.5 * space.low, 1.5 * space.high, (3, 1)).astype(np.float32)  # some are clipped
        clipped = np.clip(actions[1], space.low, space.high)
        expected, reward, *_ = plain.step(clipped)
        observations, rewards, *_ = ours.step(actions)
        assert rewards[1] == reward


def test_actions_outside_the_box_are_clipped_to_it_in_its_own_type(register: Register) -> None:
    env = GymVectorEnv(1, register(action_space=spaces.Box(-1, 0.5, (2,), np.float64)))
    env.reset(seed=0)
    env.step(np.array([[-3.0, 0.75]]))
    (action,) = inside(env).actions
    np.testing.assert_array_equal(action, np.array([-1, 0.5]), strict=True)


def test_observations_of_several_dimensions_are_flattened(register: Register) -> None:
    env = GymVectorEnv(2, register())
    assert env.single_observation_space == spaces.Box(0, 100, (4,), np.float32)
    observations, _ = env.reset(seed=0)
    assert observations.shape == (2, 4)


def test_seeds_fit_into_31_bits(register: Register) -> None:
    env = GymVectorEnv(2, register())
    env.reset(seed=[2**64 - 1, 7])
    assert (inside(env).seed, inside(env, 1).seed) == (2**31 - 1, 7)


# How an episode ends, and when it is a success.


def test_the_time_limit_is_the_registrations_unless_another_is_given(register: Register) -> None:
    env_id = register(max_episode_steps=7)
    assert GymVectorEnv(1, env_id).max_steps == 7
    assert GymVectorEnv(1, env_id, 20).max_steps == 20
    assert [truncated for *_, truncated in played(env_id)] == [False] * 6 + [True]


def test_an_environment_may_truncate_before_that(register: Register) -> None:
    assert played(register(cut=3)) == [(0, False, False), (0, False, False), (0, False, True)]


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_what_the_environment_calls_a_success_is_one_and_stays_one(register: Register, key: str) -> None:
    env_id = register(info=lambda env: {key: env.steps == 2}, reward_threshold=-1.0)
    assert str(registered(env_id).success) == f"info['{key}'] after any step"
    assert [success for success, *_ in played(env_id)] == [0, 1, 1, 1, 1]


def test_a_success_reported_only_at_the_end_is_found(register: Register) -> None:
    env_id = register(info=lambda env: {"is_success": np.array([True])} if env.steps == 5 else {})
    assert registered(env_id).success.key == "is_success"
    assert [success for success, *_ in played(env_id)] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("threshold", "reached"), [(5.0, 1), (5.5, 0), (-3.0, 1)])
def test_else_it_is_a_return_of_at_least_the_threshold_at_the_end(
    register: Register, threshold: float, reached: int
) -> None:
    env_id = register(reward_threshold=threshold)
    assert str(registered(env_id).success) == f"return >= {threshold:g} at the end"
    assert [success for success, *_ in played(env_id)] == [0, 0, 0, 0, reached]


@pytest.mark.parametrize(("changes", "last"), [({"length": 3}, 1), ({"cut": 3}, 0), ({}, 0)])
def test_else_it_is_that_the_environment_terminates_with_a_warning(
    register: Register, changes: dict[str, int], last: int, caplog: pytest.LogCaptureFixture
) -> None:
    env_id = register(**changes)
    assert str(registered(env_id).success) == "the environment terminates it within the time limit"
    assert "neither info['success'] nor a reward_threshold" in caplog.text
    assert played(env_id)[-1][0] == last


# What is known of it.


def test_the_version_names_the_package_and_outside_of_packages_the_source(register: Register) -> None:
    assert registered("Pendulum-v1").version == f"Pendulum-v1, gymnasium {gymnasium.__version__}"
    assert registered("gym_pusht:gym_pusht/PushT-v0").version.endswith("gym-pusht 0.1.8")


def test_the_version_of_a_loose_module_changes_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions = set()
    for name, comment in (("loose1", ""), ("loose2", ""), ("loose3", "# changed")):
        source = f"from {__name__} import Ramp\n\n\nclass Own(Ramp):\n    pass  {comment}\n"
        (tmp_path / f"{name}.py").write_text(
            f"{source}\n\nimport gymnasium\ngymnasium.register('Own-v0', Own, 1.0, max_episode_steps=3)\n"
        )
        version = registered(f"{name}:Own-v0").version
        assert f", {name} " in version
        versions.add(version.replace(name, ""))
        del gymnasium.registry["Own-v0"]
    assert len(versions) == 2


def test_an_environment_that_does_not_repeat_itself_gets_a_warning(
    register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = np.random.default_rng(0)
    registered(register(info=lambda env: {"success": False}))
    assert "another episode" not in caplog.text
    registered(register(step=lambda env, action: (drawn.random((2, 2)), 0.0, False, False, {"success": False})))
    assert "the same seed and actions gave another episode" in caplog.text


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_space": spaces.Dict({"a": spaces.Box(0, 1)})}, "observations are Dict; supported is a Box"),
        ({"observation_space": spaces.Discrete(3)}, "observations are Discrete; supported is a Box"),
        ({"action_space": spaces.Discrete(3)}, "actions are Discrete; supported is a Box of one dimension"),
        ({"action_space": spaces.Box(0, 1, (2, 2))}, r"actions are a Box of shape \(2, 2\), float32; supported"),
        ({"action_space": spaces.Box(0, 9, (2,), np.int64)}, r"actions are a Box of shape \(2,\), int64; supported"),
        ({"max_episode_steps": None}, "registered without max_episode_steps"),
        ({"__init__": lambda env: 1 / 0}, "gymnasium cannot make it: ZeroDivisionError: division by zero"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_with_what_would(
    register: Register, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^task Ramp0-v0: {message}") as error:
        registered(register(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulums-v1", "Environment `Pendulums` doesn't exist. Did you mean: `Pendulum`?"),
        ("Pendulum-v99", "Environment version `v99` for environment `Pendulum` doesn't exist"),
        ("no_such_package:X-v0", "No module named 'no_such_package'; run this where it lies, install it, or set"),
        ("json:X-v0", "Environment `X` doesn't exist"),
    ],
)
def test_an_unknown_id_is_refused_with_gymnasiums_reason(env_id: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        registered(env_id)
    assert str(error.value).startswith(f"unknown task {env_id!r}: {message}")
    assert "\n" not in str(error.value)


def test_a_module_that_breaks_while_it_is_imported_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_pkg.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"^unknown task 'broken_pkg:X-v0': ZeroDivisionError: division by zero$"):
        registered("broken_pkg:X-v0")


def test_an_exception_of_the_environment_names_it_on_one_line(register: Register) -> None:
    def fragile(env: Ramp) -> dict[str, Any]:
        if env.seed == 13:
            raise KeyError("unlucky\nnumber")
        return {"success": False}

    env_id = register(info=fragile)
    env = GymVectorEnv(2, env_id)
    env.reset(seed=[12, 13])
    with pytest.raises(SimulationError, match=f"^{env_id} raised KeyError: .*unlucky.*number") as error:
        env.step(np.zeros((2, 1)))
    assert "\n" not in str(error.value)


def test_an_environment_without_pictures_says_so(register: Register) -> None:
    env = GymVectorEnv(1, register())
    env.reset(seed=0)
    assert env.render_mode is None
    with pytest.raises(RenderError, match="Ramp0-v0: has no render mode 'rgb_array'"):
        env.render()


def test_an_environment_that_cannot_draw_says_why(register: Register) -> None:
    def no_library(env: Ramp) -> None:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install ...`")

    def init(env: Ramp, render_mode: str | None = None) -> None:
        env.render_mode = render_mode

    env = GymVectorEnv(1, register(metadata={"render_modes": ["rgb_array"]}, render=no_library, __init__=init))
    env.reset(seed=0)
    with pytest.raises(RenderError, match="Ramp0-v0: cannot be drawn: pygame is not installed"):
        env.render()
