"""The kitchen against its originals: the physics of gymnasium-robotics, the rewards and noise of BeT's environment."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from bet.envs import kitchen
from bet.envs.kitchen import ELEMENTS, NOISE, OBS_DIM, POSITIONS, START, STATE_DIM, KitchenVectorEnv, at_rest


@pytest.fixture(scope="module")
def quiet() -> KitchenVectorEnv:
    return KitchenVectorEnv(1, noise=False)


@pytest.fixture
def reference() -> Iterator[gymnasium.Env]:
    """The environment of gymnasium-robotics, without noise."""
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("FrankaKitchen-v1", robot_noise_ratio=0.0, object_noise_ratio=0.0).unwrapped
    yield env
    env.close()


def state_of(*done: str) -> NDArray[np.float64]:
    """The first state (59,), but with some elements at their goals."""
    state = np.concatenate([START, np.zeros(STATE_DIM - POSITIONS)])
    for name in done:
        state[ELEMENTS[name].columns] = ELEMENTS[name].goal
    return state


def after_a_step(env: KitchenVectorEnv, state: NDArray[np.float64], began: NDArray[np.float64]) -> tuple:
    """What a step gives that finds the one slot in a state, in an episode that began in another."""
    env.reset(options={"states": began[None]})
    world = env._worlds[0]
    world.qpos[:] = state[:POSITIONS]
    _, (reward,), (terminated,), _, info = env.step(np.zeros((1, 9)))
    return reward, terminated, info["success"][0]


# Against gymnasium-robotics.


def test_positions_and_velocities_are_those_of_gymnasium_robotics_to_the_last_bit(
    quiet: KitchenVectorEnv, reference: gymnasium.Env
) -> None:
    """Actions that leave their box are clipped as there, and large ones run into the joints' limits."""
    quiet.reset(seed=0)
    reference.reset(seed=0)
    generator = np.random.default_rng(1)
    pushes = generator.uniform(-1, 1, 9)
    for _ in range(40):
        action = pushes + generator.normal(0, 0.5, 9)
        quiet.step(action[None])
        reference.step(action)
        data = reference.data  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_array_equal(quiet.states[0], np.concatenate([data.qpos, data.qvel]))


def test_elements_goals_and_tolerance_are_those_of_gymnasium_robotics() -> None:
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    assert list(ELEMENTS) == list(kitchen_env.OBS_ELEMENT_GOALS)
    for name, element in ELEMENTS.items():
        np.testing.assert_array_equal(np.arange(OBS_DIM)[element.columns], kitchen_env.OBS_ELEMENT_INDICES[name])
        np.testing.assert_array_equal(element.goal, kitchen_env.OBS_ELEMENT_GOALS[name])
    assert kitchen.TOLERANCE == kitchen_env.BONUS_THRESH


def test_it_begins_where_gymnasium_robotics_does(quiet: KitchenVectorEnv, reference: gymnasium.Env) -> None:
    quiet.reset(seed=0)
    reference.reset(seed=0)
    np.testing.assert_array_equal(quiet.states[0, :POSITIONS], reference.data.qpos)  # pyright: ignore[reportAttributeAccessIssue]
    assert not kitchen.at_goals(quiet.states).any()


# Tasks.


@pytest.mark.parametrize("name", ELEMENTS)
def test_a_task_is_done_once_when_its_element_comes_to_its_goal(quiet: KitchenVectorEnv, name: str) -> None:
    reward, terminated, success = after_a_step(quiet, state_of(name), began=state_of())
    assert (reward, terminated, success) == (1.0, False, 0.0)
    again = [quiet.step(np.zeros((1, 9)))[1][0] for _ in range(2)]
    assert again == [0.0, 0.0]


def test_what_a_restored_state_has_done_is_not_asked_for_again(quiet: KitchenVectorEnv) -> None:
    reward, terminated, _ = after_a_step(quiet, state_of("microwave"), began=state_of("microwave"))
    assert (reward, terminated) == (0.0, False)


def test_four_tasks_are_a_success_and_seven_end_the_episode(quiet: KitchenVectorEnv) -> None:
    names = list(ELEMENTS)
    for count in range(1, 8):
        reward, terminated, success = after_a_step(quiet, state_of(*names[:count]), began=state_of())
        assert (reward, terminated, success) == (count, count == 7, count >= 4)


# Noise.


def test_noise_is_the_originals() -> None:
    """Uniform, on positions alone, a tenth of the amplitudes in the file that gymnasium-robotics has kept."""
    import gymnasium_robotics

    file = Path(gymnasium_robotics.__file__).parent / "envs/assets/kitchen_franka/franka_assets/franka_config.xml"
    joints = ElementTree.parse(file).getroot()[:POSITIONS]
    assert [joint.tag for joint in joints] == [f"qpos{number}" for number in range(POSITIONS)]
    np.testing.assert_allclose(NOISE, [0.1 * float(joint.attrib["pos_noise_amp"]) for joint in joints], rtol=1e-12)

    env = KitchenVectorEnv(64)
    seen = np.concatenate([env.reset(seed=64 * batch)[0] for batch in range(8)])  # (512, 60)
    errors = (seen[:, :POSITIONS] - np.array(START)) / NOISE
    assert np.abs(errors).max() < 1.01  # of float32, too
    np.testing.assert_allclose(errors.std(axis=0), 3**-0.5, rtol=0.15)
    assert not seen[:, POSITIONS:].any()


def test_noise_leaves_the_state_alone_and_moves_the_arm() -> None:
    noisy, quiet = KitchenVectorEnv(2), KitchenVectorEnv(2, noise=False)
    for env in (noisy, quiet):
        env.reset(seed=[3, 4])
    np.testing.assert_array_equal(noisy.states, quiet.states)
    noisy.step(np.zeros((2, 9)))
    quiet.step(np.zeros((2, 9)))
    assert (noisy.states[0] != noisy.states[1]).any()
    np.testing.assert_array_equal(quiet.states[0], quiet.states[1])


def test_a_state_restored_with_a_seed_is_observed_with_noise_and_without_one_as_it_is() -> None:
    env = KitchenVectorEnv(2)
    states = np.stack([state_of("kettle")] * 2)
    exact, _ = env.reset(options={"states": states})
    np.testing.assert_array_equal(exact[:, :POSITIONS], states[:, :POSITIONS].astype(np.float32))
    seeded, _ = env.reset(seed=[1, 2], options={"states": states})
    assert (seeded[0] != seeded[1]).any()
    np.testing.assert_array_equal(env.states, states)


def test_the_state_at_rest_behind_an_observation_is_observed_as_it(quiet: KitchenVectorEnv) -> None:
    observations, _ = quiet.reset(seed=0)
    again, _ = quiet.reset(options={"states": at_rest(observations)})
    np.testing.assert_array_equal(again, observations)
