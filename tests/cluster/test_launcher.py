"""What `ray up` is given: valid for Ray, and as careful with money and ports as the files say."""

import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from bet_ray.pool import NO_ROLLOUTS
from tests.cluster.files import ROOT, loaded, needed_to_install, unknown_options

TOKEN = "~/.ray/auth_token"


@pytest.fixture(params=["aws.yaml", "onprem.yaml"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A file as Ray completes it, with its own defaults for what the file leaves out."""
    return prepare_config(loaded(request.param))


@pytest.fixture
def types() -> dict[str, Any]:
    """The kinds of nodes on AWS."""
    return prepare_config(loaded("aws.yaml"))["available_node_types"]


def starts(config: dict[str, Any]) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    found = [command for command in commands if "ray start" in command]
    assert len(found) == 2
    return found


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(config)
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        validate_config(config | {"max_wrokers": 3})


def test_ray_is_started_with_options_that_it_has(config: dict[str, Any]) -> None:
    assert [unknown_options(command) for command in starts(config)] == [set(), set()]
    assert unknown_options("ray start --haed") == {"--haed"}


def test_no_process_joins_without_the_token(config: dict[str, Any]) -> None:
    assert all("RAY_AUTH_MODE=token " in command for command in starts(config))
    assert config["file_mounts"][TOKEN] == TOKEN
    assert any(f"chmod 600 {TOKEN}" in command for command in config["setup_commands"])


def test_a_command_in_a_shell_of_the_head_runs_on_the_cluster_and_not_on_a_ray_of_its_own(
    config: dict[str, Any], tmp_path: Path
) -> None:
    (setup,) = [command for command in config["setup_commands"] if "~/.profile" in command]
    for _ in range(2):  # as `ray up` does again after a change
        subprocess.run(["bash", "-c", setup], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=False)
    assert (tmp_path / ".profile").read_text().splitlines() == [
        "export RAY_AUTH_MODE=token RAY_ADDRESS=auto PATH=$HOME/venv/bin:$PATH"
    ]


def test_the_dashboard_is_for_the_head_alone(config: dict[str, Any]) -> None:
    head, worker = starts(config)
    assert "--dashboard-host=127.0.0.1 " in head
    assert "dashboard" not in worker
    assert "0.0.0.0" not in head + worker


def test_the_head_does_no_work(config: dict[str, Any]) -> None:
    head, worker = starts(config)
    assert "--num-cpus=0 " in head
    assert "--num-cpus" not in worker


def test_the_working_tree_is_installed_with_the_tested_versions(config: dict[str, Any]) -> None:
    mounted = {remote: local for remote, local in config["file_mounts"].items() if remote != TOKEN}
    assert all(remote == f"~/bet-ray/{local}" and (ROOT / local).exists() for remote, local in mounted.items())
    assert needed_to_install() <= set(mounted.values())
    assert mounted.keys().isdisjoint({"~/bet-ray/.git", "~/bet-ray/runs", "~/bet-ray/data"})
    setup = [*config["setup_commands"], *config["head_setup_commands"], *config["worker_setup_commands"]]
    installs = [command for command in setup if "pip install" in command]
    assert installs
    assert all("--constraint ~/bet-ray/constraints.txt" in command for command in installs)  # and no default of Ray's


def test_drivers_are_off_spot_and_rollouts_on_it(types: dict[str, Any]) -> None:
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"rollout"}
    assert types["head"]["resources"] == {"CPU": 0}


def test_gpus_are_for_training(types: dict[str, Any]) -> None:
    assert {name for name, kind in types.items() if kind["resources"].get("GPU")} == {"train"}
    assert types["train"]["labels"] == NO_ROLLOUTS
    assert types["rollout"]["labels"].keys().isdisjoint(NO_ROLLOUTS)


def test_an_idle_cluster_is_its_head_and_a_busy_one_has_limits(types: dict[str, Any]) -> None:
    config = loaded("aws.yaml")
    workers = [kind for name, kind in types.items() if name != "head"]
    assert [kind["min_workers"] for kind in workers] == [0, 0]
    assert config["max_workers"] == sum(kind["max_workers"] for kind in workers)
    assert config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False


def test_a_machine_of_the_lab_with_a_gpu_is_for_training() -> None:
    ((label, value),) = NO_ROLLOUTS.items()
    option = f"--labels={label}={value}"
    assert unknown_options(f"ray start {option}") == set()
    _, worker = starts(prepare_config(loaded("onprem.yaml")))
    assert f"labels=$(nvidia-smi --list-gpus > /dev/null 2>&1 && echo {option});" in worker
    assert worker.endswith(" $labels")


def test_every_machine_of_the_lab_is_its_own() -> None:
    provider = loaded("onprem.yaml")["provider"]
    machines = [provider["head_ip"], *provider["worker_ips"]]
    assert len(set(machines)) == len(machines)
