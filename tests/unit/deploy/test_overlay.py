"""The Kubernetes overlay as ``kubectl apply -k`` would send it to a cluster."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
WORKLOADS = {"StatefulSet", "Deployment", "Job"}
MODELS = "cloudcoil.models"
CUSTOM = {
    "ScaledObject": "keda.v1alpha1",
    "TriggerAuthentication": "keda.v1alpha1",
    "ServiceMonitor": "prometheus_operator.v1",
    "PrometheusRule": "prometheus_operator.v1",
}
"""Kind → the module of its model, made from the operator's own definition; slow to import."""

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Everything that the example overlay makes of the base."""
    copy = shutil.copytree(KUBERNETES, tmp_path_factory.mktemp("overlay") / "kubernetes")
    overlay = copy / "overlays" / "example"
    (wanted,) = yaml.safe_load((overlay / "kustomization.yaml").read_text())["secretGenerator"]
    for name in wanted["files"]:
        (overlay / name).parent.mkdir(exist_ok=True)
        (overlay / name).write_text("secret")
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", overlay], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of(built: list[Manifest], *kinds: str) -> list[Manifest]:
    found = [one for one in built if one["kind"] in kinds]
    assert {one["kind"] for one in found} == set(kinds)
    return found


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def test_custom_resources_fit_the_operators_definitions(built: list[Manifest]) -> None:
    """What the models made from the definitions do not know would be missing from their copy."""
    for one in of(built, *CUSTOM):
        module = importlib.import_module(f"{MODELS}.{CUSTOM[one['kind']]}")
        model = getattr(module, one["kind"]).model_validate(one)
        assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == one


def test_kubernetes_takes_what_was_built(built: list[Manifest], tmp_path: Path) -> None:
    core = [one for one in built if one["kind"] not in CUSTOM]
    path = tmp_path / "built.yaml"
    path.write_text(yaml.safe_dump_all(core))
    program = Path(sys.executable).parent / "kubernetes-validate"
    done = subprocess.run(
        [program, "--strict", "--quiet", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_leads_somewhere(built: list[Manifest]) -> None:
    """The names of secret and configuration get a hash, which every reference must follow."""
    (secret,) = of(built, "Secret")
    (config,) = of(built, "ConfigMap")
    for one in of(built, *WORKLOADS):
        volumes = {volume["name"]: volume for volume in pod(one)["volumes"]}
        assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
        assert volumes["secrets"]["secret"]["secretName"] == secret["metadata"]["name"]
        keys = {item["key"] for item in volumes["secrets"]["secret"]["items"]}
        assert keys <= secret["data"].keys()
        assert pod(one)["containers"][0]["image"] == "registry.example.com/correio:0.1.0"
    (authentication,) = of(built, "TriggerAuthentication")
    for wanted in authentication["spec"]["secretTargetRef"]:
        assert wanted["name"] == secret["metadata"]["name"]
        assert wanted["key"] in secret["data"]
    for scaled in of(built, "ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    assert all(one["operator"] == "In" for one in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def test_every_selector_finds_its_pods(built: list[Manifest]) -> None:
    pods = {
        one["metadata"]["name"].removeprefix("correio-"):
            one["spec"]["template"]["metadata"]["labels"]
        for one in of(built, *WORKLOADS)
    }  # fmt: skip
    everybody = set(pods)
    for one in of(built, "PodDisruptionBudget"):
        name = one["metadata"]["name"].removeprefix("correio-")
        found = {pod for pod, labels in pods.items() if selects(one["spec"]["selector"], labels)}
        assert found == {name}
    policies = {
        one["metadata"]["name"]: {
            pod for pod, labels in pods.items() if selects(one["spec"]["podSelector"], labels)
        }
        for one in of(built, "NetworkPolicy")
    }
    assert policies == {
        "correio-deny": everybody,
        "correio-names-and-broker": everybody,
        "correio-store": everybody - {"receiver"},
        "correio-callbacks-out": {"callbacks", "console"},
        "correio-web": {"receiver", "console"},
        "correio-monitoring": everybody,
    }
    services = {
        one["metadata"]["name"]: {
            pod for pod, labels in pods.items() if one["spec"]["selector"].items() <= labels.items()
        }
        for one in of(built, "Service")
    }
    assert services == {
        "correio-receiver": {"receiver"},
        "correio-console": {"console"},
        "correio-ops": everybody,  # the migration has no such port
    }
    (monitor,) = of(built, "ServiceMonitor")
    watched = [
        one["metadata"]["name"]
        for one in of(built, "Service")
        if selects(monitor["spec"]["selector"], one["metadata"]["labels"])
    ]
    assert watched == ["correio-ops"]


def test_ports_are_those_that_the_policies_open(built: list[Manifest]) -> None:
    ports = {
        port["containerPort"]
        for one in of(built, *WORKLOADS)
        for port in pod(one)["containers"][0].get("ports", [])
    }
    opened = {
        port["port"]
        for one in of(built, "NetworkPolicy")
        for rule in one["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    assert ports == opened == {8080, 8090, 9100}


def test_nobody_is_turned_away_while_a_pod_leaves(built: list[Manifest]) -> None:
    """It listens on until every node knows, and has time left for what is in hand."""
    for one in of(built, "StatefulSet", "Deployment"):
        names = {port["name"] for port in pod(one)["containers"][0]["ports"]}
        hook = pod(one)["containers"][0].get("lifecycle", {}).get("preStop")
        assert (hook is not None) == ("http" in names)
        if hook is not None:
            pause = float(hook["exec"]["command"][1])
            assert pause + 10 <= pod(one)["terminationGracePeriodSeconds"]
