"""The manifests for KubeRay, and against its own definitions where KUBERAY_CRDS names the folder that holds them
(`ray-operator/config/crd/bases` of its repository).
"""

import os
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bet_ray.pool import NO_ROLLOUTS
from bet_ray.sweep import load_sweep
from bet_ray.tuning import divide
from tests.cluster.files import ROOT, loaded, pinned

INSTALLED = "/opt/bet-ray/"


@pytest.fixture
def spec() -> dict[str, Any]:
    """Of the cluster."""
    return loaded("kuberay/raycluster.yaml")["spec"]


def pods(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in ({"head": spec["headGroupSpec"]} | groups).items()}


def limits(pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["containers"]
    return container["resources"]["limits"]


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberay_knows_every_field(name: str) -> None:
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS does not name the folder of KubeRay's definitions")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((Path(folder) / f"ray.io_{name}s.yaml").read_text(), Loader=loader)
    manifest = loaded(f"kuberay/{name}.yaml")
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if f"ray.io/{version['name']}" == manifest["apiVersion"]
    ]
    validator = jsonschema.Draft202012Validator(closed(schema))
    validator.validate(manifest)
    typo = manifest | {"spec": manifest["spec"] | {"shutdownAfterJob": True}}
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJob"):
        validator.validate(typo)


def closed(schema: Any) -> Any:
    """The schema without room for fields it does not name, which a cluster drops silently."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return inner | {"additionalProperties": False} if named and "additionalProperties" not in schema else inner


def test_a_job_brings_the_very_cluster(spec: dict[str, Any]) -> None:
    assert loaded("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"] == spec


def test_all_nodes_run_one_image_of_the_pinned_ray(spec: dict[str, Any]) -> None:
    images = {container["image"] for pod in pods(spec).values() for container in pod["containers"]}
    assert spec["rayVersion"] == pinned("ray")
    assert images == {f"REGISTRY/bet-ray:{pinned('ray')}"}


def test_the_token_comes_out_of_a_secret(spec: dict[str, Any]) -> None:
    assert spec["authOptions"] == {"mode": "token", "secretName": "bet-ray-token"}
    assert "auth_token" not in (ROOT / "cluster/kuberay/raycluster.yaml").read_text()


def test_nothing_is_reached_from_outside_nor_runs_as_root(spec: dict[str, Any]) -> None:
    text = (ROOT / "cluster/kuberay/rayjob.yaml").read_text()
    assert not [word for word in ("LoadBalancer", "NodePort", "hostNetwork", "hostPort", "hostPath") if word in text]
    for name, pod in pods(spec).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert all(not container["securityContext"]["allowPrivilegeEscalation"] for container in pod["containers"])


def test_the_head_does_no_work_and_is_kept_off_every_kind_of_spot_node(spec: dict[str, Any]) -> None:
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    affinity = {name: pod["affinity"]["nodeAffinity"] for name, pod in pods(spec).items() if "affinity" in pod}
    (term,) = affinity["head"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    wanted = [
        preferred["preference"]["matchExpressions"][0]
        for preferred in affinity["rollout"]["preferredDuringSchedulingIgnoredDuringExecution"]
    ]
    assert [each | {"operator": "In"} for each in term["matchExpressions"]] == wanted


def test_gpus_are_for_training(spec: dict[str, Any]) -> None:
    assert {name for name, pod in pods(spec).items() if "nvidia.com/gpu" in limits(pod)} == {"train"}
    labels = {group["groupName"]: group.get("labels", {}) for group in spec["workerGroupSpecs"]}
    assert labels == {"rollout": {}, "train": NO_ROLLOUTS}


def test_what_a_pod_asks_for_is_what_ray_counts(spec: dict[str, Any]) -> None:
    """Ray takes CPUs, GPUs and memory of a node from the limits; Kubernetes places by the requests."""
    for pod in pods(spec).values():
        assert pod["containers"][0]["resources"]["requests"] == limits(pod)


def test_an_idle_cluster_is_its_head(spec: dict[str, Any]) -> None:
    assert [(group["replicas"], group["minReplicas"]) for group in spec["workerGroupSpecs"]] == [(0, 0), (0, 0)]
    job = loaded("kuberay/rayjob.yaml")["spec"]
    assert job["shutdownAfterJobFinishes"]
    assert job["activeDeadlineSeconds"]


def test_the_job_is_a_sweep_that_the_cluster_can_hold(spec: dict[str, Any]) -> None:
    words = shlex.split(loaded("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    assert words[:2] == ["bet-ray", "sweep"]
    assert "--resume" in words
    sweep = load_sweep(ROOT / words[2].removeprefix(INSTALLED), [word for word in words if "=" in word])
    assert sweep.resources.cpus
    shares = divide(sweep, sweep.resources.cpus)
    asked = shares.actors * shares.cpus_per_actor + shares.trials_at_once * shares.cpus_per_trial
    (rollout,) = [group for group in spec["workerGroupSpecs"] if group["groupName"] == "rollout"]
    assert asked <= sweep.resources.cpus <= rollout["maxReplicas"] * int(limits(pods(spec)["rollout"])["cpu"])
