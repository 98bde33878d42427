"""What is handed to container engines, clusters and systemd: checked by their own rules.

What cannot be checked here is said in deploy/README.md.
"""

import grp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.kubernetes.make_rule import RULE, text
from deploy.local.stack import ROLES
from receiver.supervisor import KILL_MARGIN
from shared.broker.topology import CALLBACKS, EVENTS
from shared.config import Config, load_config
from shared.sealing import KeyRing, read_key

DEPLOY = Path(__file__).parents[3] / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
HOST = DEPLOY / "systemd" / "correio.toml"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CORE = {
    "ServiceAccount", "StatefulSet", "Deployment", "Service", "PodDisruptionBudget", "Job",
    "NetworkPolicy", "Namespace",
}  # fmt: skip
SPAN_MARGIN = 1.0
"""Seconds that the last spans may take beyond."""
WORKLOADS = {"StatefulSet", "Deployment", "Job"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def manifests() -> list[dict[str, Any]]:
    listed = documents(BASE / "kustomization.yaml")[0]["resources"]
    beside = {"kustomization.yaml", "name-references.yaml"}
    assert {one.name for one in BASE.glob("*.yaml")} == {*listed, *beside}
    return [one for name in listed for one in documents(BASE / name)]


def run(*command: str | Path) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def beside(program: str) -> Path:
    return Path(sys.executable).parent / program


def test_the_dockerfile_passes_a_linter() -> None:
    run(beside("hadolint"), DEPLOY / "Dockerfile")


def test_the_image_gets_what_the_dockerfile_copies() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    wanted = {one for line in copied for one in line.split()}
    allowed = {
        line[1:].split("/")[0]
        for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert wanted == allowed


def test_kubernetes_takes_the_manifests() -> None:
    kinds = {one["kind"] for one in manifests()}
    assert CORE - {"Namespace"} < kinds
    assert kinds - CORE == {
        "TriggerAuthentication", "ScaledObject", "ServiceMonitor", "PrometheusRule",
    }  # fmt: skip
    core = [one for one in BASE.glob("*.yaml") if {d.get("kind") for d in documents(one)} <= CORE]
    core += (BASE.parent / "overlays" / "example").glob("namespace.yaml")
    run(beside("kubernetes-validate"), "--strict", "--quiet", *core)


def test_every_pod_is_locked_down() -> None:
    for one in manifests():
        if one["kind"] not in WORKLOADS:
            continue
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        if one["kind"] != "Job":
            assert {"livenessProbe", "readinessProbe", "startupProbe"} < container.keys()


def test_every_pod_sees_only_its_own_secrets() -> None:
    for one in manifests():
        if one["kind"] not in WORKLOADS:
            continue
        pod = one["spec"]["template"]["spec"]
        (volume,) = [v["secret"] for v in pod["volumes"] if "secret" in v]
        keys = {item["key"] for item in volume["items"]}
        (container,) = pod["containers"]
        named = {Path(v["value"]).name for v in container["env"] if v["name"].endswith("_FILE")}
        assert keys == named | {"source-klavi", "operator"}  # named by the one configuration file
        assert sum(key.startswith("broker-url-") for key in keys) == 1
        assert ("store-url" in keys) == (container["name"] != "receiver")
        assert ("sealing-keys" in keys) == (container["name"] != "migrate")  # it opens nothing


def test_the_receiver_gets_its_share_of_the_cpu_before_the_workers() -> None:
    """A batch that waits too long is not sent again; what waits in a queue loses nothing."""
    pods = {
        container["name"]: container["resources"]["requests"]["cpu"]
        for one in manifests()
        if one["kind"] in WORKLOADS
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    (compose,) = documents(DEPLOY / "compose.yaml")
    units = {
        unit: int(weight)
        for unit in (one.stem for one in UNITS)
        for weight in re.findall(r"^CPUWeight=(\d+)$", text_of(unit), re.MULTILINE)
    }
    for worker in ("events", "callbacks"):
        assert millicores(pods["receiver"]) > millicores(pods[worker])
        services = compose["services"]
        assert services["receiver"]["cpu_shares"] > 1024 > services[worker]["cpu_shares"]
        # A unit that says nothing, as the broker's, has 100.
        assert units["correio-receiver"] > 100 > units[f"correio-{worker}@"]


def text_of(unit: str) -> str:
    return (DEPLOY / "systemd" / f"{unit}.service").read_text()


def test_nobody_is_killed_while_it_ends_in_good_order() -> None:
    wanted = Config().receiver.shutdown_timeout + KILL_MARGIN + SPAN_MARGIN
    (compose,) = documents(DEPLOY / "compose.yaml")
    patience = {
        float(service["stop_grace_period"].removesuffix("s"))
        for service in compose["services"].values()
        if service["image"].startswith("correio:")
    }
    for one in UNITS:
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", one.read_text(), re.MULTILINE)
        patience.add(float(seconds))
    assert min(patience) >= wanted


def millicores(requested: str | int) -> int:
    text = str(requested)
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


def test_workers_scale_by_their_queue_with_a_floor() -> None:
    scaled = {one["metadata"]["name"]: one["spec"] for one in manifests()
              if one["kind"] == "ScaledObject"}  # fmt: skip
    queues = {}
    for name, spec in scaled.items():
        assert spec["scaleTargetRef"]["name"] == name
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]
        (trigger,) = spec["triggers"]
        assert trigger["metadata"]["protocol"] == "http"
        assert trigger["metadata"]["excludeUnacknowledged"] == "false"
        queues[name] = trigger["metadata"]["queueName"]
    assert queues == {"correio-events": EVENTS, "correio-callbacks": CALLBACKS}


def test_the_prometheus_rule_holds_the_alerts() -> None:
    assert RULE.read_text() == text(), "run python -m deploy.kubernetes.make_rule"
    (rule,) = documents(RULE)
    assert rule["spec"] == documents(DEPLOY / "prometheus" / "alerts.yml")[0]


def roles_of(commands: list[list[str]]) -> set[tuple[str, ...]]:
    return {tuple(one) for one in commands}


EVERY_ROLE = {*ROLES.values(), ("console.cli", "migrate")}


def test_every_role_stands_in_every_form() -> None:
    pods = [one["spec"]["template"]["spec"]["containers"][0]["args"] for one in manifests()
            if one["kind"] in WORKLOADS]  # fmt: skip
    assert roles_of(pods) == EVERY_ROLE
    services = documents(DEPLOY / "compose.yaml")[0]["services"].values()
    assert roles_of([one["command"] for one in services if "command" in one]) == EVERY_ROLE
    units = "".join(one.read_text() for one in UNITS)
    started = re.findall(r"^ExecStart=\S+ -m (.*)$", units, re.MULTILINE)
    assert roles_of([one.split() for one in started]) == EVERY_ROLE


def test_compose_follows_the_compose_specification() -> None:
    schema = "vendor.compose-spec"
    run(beside("check-jsonschema"), "--builtin-schema", schema, DEPLOY / "compose.yaml")


def test_compose_names_only_what_it_has() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    named = [one.get("source") if isinstance(one, dict) else one
             for service in compose["services"].values()
             for one in service.get("secrets", [])]  # fmt: skip
    assert set(named) == compose["secrets"].keys()
    for one in compose["configs"].values():
        assert (DEPLOY / one["file"]).is_file()
    for service in compose["services"].values():
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source
        for other in service.get("depends_on", {}):
            assert other in compose["services"]


def test_make_secrets_makes_them_once(tmp_path: Path) -> None:
    script = DEPLOY / "compose" / "make-secrets.sh"
    run("sh", script, tmp_path)
    first = {one.name: one.read_text() for one in tmp_path.iterdir() if one.is_file()}
    run("sh", script, tmp_path)
    again = {one.name: one.read_text() for one in tmp_path.iterdir() if one.is_file()}
    assert again == first
    (compose,) = documents(DEPLOY / "compose.yaml")
    assert {Path(one["file"]).name for one in compose["secrets"].values()} == first.keys()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in first} == {0o644}
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert first["postgres-password"].strip() in first["store-url"]
    users = {
        one["name"]: one["password"] for one in json.loads(first["rabbitmq-definitions"])["users"]
    }
    assert (
        f"amqp://correio-events:{users['correio-events']}@rabbitmq:5672/"
        in first["broker-url-events"]
    )
    assert KeyRing.read(first["sealing-keys"]).ids == ("first",)
    assert read_key(first["sealing-index-key"].strip(), "index_key")


def test_every_container_sees_only_its_own_secrets() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for name, service in compose["services"].items():
        if not service["image"].startswith("correio:"):
            continue
        broker, *others = service["secrets"]
        role = "admin" if name == "migrate" else name
        assert broker == {"source": f"broker-url-{role}", "target": "broker-url"}
        named = {Path(one).name for one in service["environment"].values()}
        # What the one configuration file names is read by all.
        assert {"broker-url", *others} == named | {"source-klavi", "operator"}


def test_the_overlay_gets_every_secret_that_it_names(tmp_path: Path) -> None:
    group = f"CORREIO_GROUP={grp.getgrgid(os.getgid()).gr_name}"
    script = DEPLOY / "systemd" / "make-secrets.sh"
    run("env", group, "MANAGEMENT=rabbitmq:15672/%2F", "sh", script, tmp_path)
    (overlay,) = documents(BASE.parent / "overlays" / "example" / "kustomization.yaml")
    (wanted,) = overlay["secretGenerator"]
    made = {one.name for one in tmp_path.iterdir() if one.is_file()}
    assert made == {Path(one).name for one in wanted["files"]}
    password = (tmp_path / "broker" / "correio-scaler").read_text().strip()
    url = (tmp_path / "management-url").read_text().strip()
    assert url == f"http://correio-scaler:{password}@rabbitmq:15672/%2F"


def credentials(unit: str) -> dict[str, str]:
    """Setting → the file that a unit takes it from."""
    text = text_of(unit)
    files = dict(re.findall(r"^LoadCredential=(\S+):(\S+)$", text, re.MULTILINE))
    return {name: files[one] for name, one in re.findall(r"(CORREIO_\w+)_FILE=%d/(\S+)", text)}


def test_a_host_gets_every_secret_that_its_units_name_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = DEPLOY / "systemd" / "make-secrets.sh"
    group = f"CORREIO_GROUP={grp.getgrgid(os.getgid()).gr_name}"
    run("env", group, "sh", script, folder)
    first = {one.name: one.read_text() for one in folder.iterdir() if one.is_file()}
    run("env", group, "sh", script, folder)
    assert {one.name: one.read_text() for one in folder.iterdir() if one.is_file()} == first
    named = {Path(one) for unit in UNITS for one in credentials(unit.stem).values()}
    named |= set(map(Path, re.findall(r'secrets_file = "(\S+)"', HOST.read_text())))
    assert {one.parent for one in named} == {Path("/etc/correio/secrets")}
    assert {one.name for one in named} == first.keys()
    modes = {one.name: one.stat().st_mode & 0o777 for one in folder.iterdir()}
    for_all = {"source-klavi", "operator"}  # read by the processes themselves, not by systemd
    assert {name for name, mode in modes.items() if mode == 0o640} == for_all
    assert {mode for name, mode in modes.items() if name not in for_all} == {0o600, 0o700}
    users = re.findall(
        r"^(correio-\w+)", (DEPLOY / "rabbitmq" / "rights.txt").read_text(), re.MULTILINE
    )
    assert {one.name for one in (folder / "broker").iterdir()} == set(users)
    assert KeyRing.read(first["sealing-keys"]).ids == ("first",)
    assert read_key(first["sealing-index-key"].strip(), "index_key")
    password = (folder / "broker" / "correio-events").read_text().strip()
    assert first["broker-url-events"] == f"amqp://correio-events:{password}@127.0.0.1:5672/\n"


def test_the_command_on_a_host_has_the_settings_of_the_consoles_unit() -> None:
    command = (DEPLOY / "systemd" / "correio").read_text()
    read = dict(
        re.findall(r'^(CORREIO_\w+)=\$\(cat "\$secrets/([\w-]+)"\)$', command, re.MULTILINE)
    )
    wanted = credentials("correio-console").items()
    assert read == {name: Path(file).name for name, file in wanted}
    unit = text_of("correio-console")
    plain = set(re.findall(r"(CORREIO_\w+=[^%\s]+)(?=\s)", unit))
    plain = {one for one in plain if not one.startswith("CORREIO_OPS__")}  # it serves nothing
    assert plain <= set(re.findall(r"CORREIO_\w+=\S+", command))
    exported = re.findall(r"^export (.*)$", command, re.MULTILINE)
    assert set(read) <= set(exported[0].split())
    run("sh", "-n", DEPLOY / "systemd" / "correio")


def test_the_steps_for_a_host_name_files_that_there_are() -> None:
    readme = (DEPLOY / "README.md").read_text()
    steps = readme.partition("### On a host without containers")[2].partition("\n##")[0]
    named = set(re.findall(r"deploy/[\w./-]*\w", steps))
    assert len(named) > 3
    for one in named:
        assert (DEPLOY.parent / one).exists(), one
    commands = " ".join(re.findall(r"^ +systemctl (.*)$", steps, re.MULTILINE))
    started = set(re.findall(r"correio-\w+(?:@(?=\d))?", commands))
    assert started == {one.stem for one in UNITS}


def test_the_runbooks_name_processes_that_there_are() -> None:
    table = [line for line in (DEPLOY / "runbooks.md").read_text().splitlines() if line[0:1] == "|"]
    units = re.findall(r"(?:systemctl restart|journalctl -u) ([\w-]+)", "".join(table))
    assert set(units) <= {one.stem for one in UNITS}
    (compose,) = documents(DEPLOY / "compose.yaml")
    services = re.findall(r"`(?:exec|logs --timestamps|restart) (\w+)", "".join(table))
    assert set(services) <= compose["services"].keys() | {"deploy"}
    workloads = {(one["kind"].lower(), one["metadata"]["name"]) for one in manifests()}
    named = re.findall(r"\b(deploy|statefulset)/(correio-\w+)", "".join(table))
    assert {(kind.replace("deploy", "deployment"), name) for kind, name in named} <= workloads
    assert all((units, services, named))


@pytest.mark.parametrize("place", ["compose", "kubernetes/base"])
def test_the_configurations_of_containers_listen_to_the_outside(tmp_path: Path, place: str) -> None:
    assert read_with_secrets(DEPLOY / place / "correio.toml", tmp_path).console.host == "0.0.0.0"


def test_the_configuration_of_a_host_leaves_the_outside_to_a_proxy(tmp_path: Path) -> None:
    config = read_with_secrets(HOST, tmp_path)
    assert config.console.host == config.receiver.host == "127.0.0.1"
    assert config.console.secure_cookies


def read_with_secrets(path: Path, folder: Path) -> Config:
    source = path.read_text()
    for name in re.findall(r'secrets_file = "(\S+)"', source):
        (folder / Path(name).name).write_text("a-secret-of-more-than-twenty-characters")
        source = source.replace(name, str(folder / Path(name).name))
    (folder / "correio.toml").write_text(source)
    config = load_config({"CORREIO_CONFIG": str(folder / "correio.toml")})
    assert config.operator
    return config


def test_promtool_takes_the_scrape_configurations(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", tmp_path)
    for place in ("compose", "prometheus"):
        copy = shutil.copy(DEPLOY / place / "prometheus.yml", tmp_path)
        run("promtool", "check", "config", copy)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="a container's image may come without systemd"
)
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """With the interpreter that runs here in the place of the installed one."""
    made = []
    for unit in UNITS:
        text = unit.read_text().replace("/opt/correio/venv/bin/python", sys.executable)
        made.append(tmp_path / unit.name)
        made[-1].write_text(text)
    run("systemd-analyze", "verify", "--man=no", *made)


def test_the_console_looks_where_the_receiver_of_its_machine_spools() -> None:
    texts = {one.stem: one.read_text() for one in UNITS}
    spools = {
        name: re.findall(r"CORREIO_RECEIVER__SPOOL=(\S+)", texts[f"correio-{name}"])
        for name in ("receiver", "console")
    }
    assert spools["receiver"] == spools["console"] == ["/var/lib/correio/spool"]


def test_every_unit_is_hardened_alike() -> None:
    tails = {one.read_text().partition("NoNewPrivileges")[2].partition("\n\n[Install]")[0].strip()
             for one in UNITS}  # fmt: skip
    assert len(tails) == 1
    for one in UNITS:
        if "migrate" not in one.name:
            assert "Restart=always" in one.read_text()
