"""The alert rules: each fault raises its own alert and no other that would mislead."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Info
from prometheus_client.metrics import MetricWrapperBase

from console.cli import cli
from deploy.grafana.make_dashboards import DASHBOARDS, file_of, text_of
from receiver.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
METRICS = ROOT / "deploy" / "metrics.md"
RUNBOOKS = ROOT / "deploy" / "runbooks.md"
RULES = (PROMETHEUS / "alerts.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)

MINUTES = 40
STILL = f"+0x{MINUTES}"

AGE = 'correio_queue_oldest_message_age_seconds{queue="correio.events",instance="console"}'

ACCEPTED = 'correio_receiver_batches_total{source="klavi",route="broker",instance="a"}'
REFUSED = 'correio_receiver_refused_total{{source="klavi",reason="{}",instance="a"}}'

HEALTHY = {
    'correio_receiver_broker_connected{instance="a"}': f"1{STILL}",
    'correio_receiver_broker_connected{instance="b"}': f"1{STILL}",
    'up{job="correio-receiver",instance="a"}': f"1{STILL}",
    'up{job="correio-receiver",instance="b"}': f"1{STILL}",
    'up{job="correio-events",instance="c"}': f"1{STILL}",
    'up{job="correio-events",instance="c2"}': f"1{STILL}",
    'up{job="correio-callbacks",instance="d"}': f"1{STILL}",
    'correio_spool_oldest_seconds{instance="a"}': f"0{STILL}",
    'correio_spool_writable{instance="a"}': f"1{STILL}",
    'correio_spool_bytes{instance="a"}': f"10{STILL}",
    'correio_spool_limit_bytes{instance="a"}': f"100{STILL}",
    'correio_spool_full_total{instance="a"}': f"0{STILL}",
    'correio_spool_damaged_total{instance="a"}': f"0{STILL}",
    'correio_spool_damaged_total{instance="b"}': f"1{STILL}",  # long ago
    'process_start_time_seconds{instance="b"}': f"0{STILL}",
    ACCEPTED: f"0+9x{MINUTES}",
    REFUSED.format("bad-signature"): f"0+1x{MINUTES}",  # of strangers
    REFUSED.format("overloaded"): f"0{STILL}",
    'correio_events_paused{instance="c"}': f"0{STILL}",
    'correio_events_paused{instance="c2"}': f"0{STILL}",
    'correio_retention_ended_timestamp_seconds{instance="c"}': f"0+60x{MINUTES}",
    'correio_retention_interval_seconds{instance="c"}': f"300{STILL}",
    'correio_erasures_overdue_seconds{instance="c"}': f"30{STILL}",
    'correio_unopened_total{instance="c"}': f"0{STILL}",
    'correio_callbacks_paused{instance="d"}': f"0{STILL}",
    **{
        f'correio_queue_{figure}{{queue="correio.{queue}",instance="{seen_by}"}}': f"{value}{STILL}"
        for figure, value in (("consumers", 1), ("messages_ready", 3))
        for queue in ("events", "callbacks", "dead")
        for seen_by in "cd"
    },
    'correio_consumer_oldest_message_age_seconds{queue="correio.events"}': f"0.2{STILL}",
    AGE: f"0{STILL}",
    'correio_events_quarantined_total{source="klavi",reason="malformed"}': f"7{STILL}",
    'correio_callbacks_breaker_open{endpoint="crm"}': f"0{STILL}",
    'correio_callbacks_breaker_open{endpoint="erp"}': f"0{STILL}",
    'correio_callbacks_deliveries_total{endpoint="crm",state="exhausted"}': f"2{STILL}",
    **{
        f'correio_callbacks_{figure}_seconds_bucket{{endpoint="{one}",le="{le}"}}': (
            f"0+{count}x{MINUTES}"
        )
        for figure in ("attempt", "late")
        for one in ("crm", "erp")
        for le, count in (("0.1", 60), ("10", 60), ("60", 60), ("+Inf", 60))
    },
}
"""What Prometheus sees of a system that is well, a sample a minute."""

GONE = f"_x{MINUTES}"
START = (MINUTES - 10) * 60
"""When a process began that is seen for the last ten minutes, in seconds."""
QUEUES = [one for one in HEALTHY if one.startswith("correio_queue_") and one != AGE]
RECEIVERS = [one for one in HEALTHY if "receiver" in one or "spool" in one]
AWAY: dict[str, dict[str, str]] = {
    kind: {
        one: f"0{STILL}" if one.startswith("up") else GONE
        for one in HEALTHY
        if f'"correio-{kind}"' in one
        or one.startswith((f"correio_{kind}_", *more))
    }
    for kind, more in (
        ("events", ("correio_retention_", "correio_erasures_", "correio_unopened_",
                    "correio_consumer_")),
        ("callbacks", ()),
    )
}  # fmt: skip
"""What is no longer seen of the workers of a kind that nobody scrapes."""


def slow(figure: str, *, endpoint: str) -> dict[str, str]:
    """The buckets of an endpoint or of all, where everything takes 10 to 60 s."""
    return {
        f'correio_callbacks_{figure}_seconds_bucket{{endpoint="{endpoint}",le="{le}"}}': (
            f"0+{count}x{MINUTES}"
        )
        for le, count in (("0.1", 0), ("10", 0), ("60", 60), ("+Inf", 60))
    }


FAULTS: dict[str, tuple[dict[str, str], dict[str, dict[str, str]]]] = {
    "none": ({}, {}),
    "broker down": (
        {
            **{one: f"0{STILL}" for one in HEALTHY if "broker_connected" in one},
            'correio_spool_oldest_seconds{instance="a"}': f"0+60x{MINUTES}",
            **dict.fromkeys([*QUEUES, AGE], GONE),
        },
        {"CorreioBrokerDown": {}},
    ),
    "all receivers gone": (
        {one: f"0{STILL}" if one.startswith("up") else GONE for one in RECEIVERS},
        {"CorreioReceiversGone": {}},
    ),
    "one receiver gone": (
        {one: f"0{STILL}" if one.startswith("up") else GONE
         for one in RECEIVERS if 'instance="b"' in one},
        {"CorreioReceiverDown": {"job": "correio-receiver", "instance": "b"}},
    ),
    "a secret changed by the source": (
        {ACCEPTED: f"0+9x{MINUTES - 20} {9 * (MINUTES - 20)}+0x20"},
        {"CorreioBatchesRefused": {"source": "klavi", "reason": "bad-signature"}},
    ),
    "receiver overloaded": (
        {REFUSED.format("overloaded"): f"0+1x{MINUTES}"},
        {"CorreioBatchesRefused": {"source": "klavi", "reason": "overloaded"}},
    ),
    "console gone": ({AGE: GONE}, {"CorreioAgesUnseen": {}}),
    "spool unwritable": (
        {'correio_spool_writable{instance="a"}': f"0{STILL}"},
        {"CorreioSpoolUnwritable": {}},
    ),
    "spool filling": (
        {'correio_spool_bytes{instance="a"}': f"80{STILL}"},
        {"CorreioSpoolFilling": {}},
    ),
    "store down": (
        {
            'correio_events_paused{instance="c"}': f"1{STILL}",
            'correio_callbacks_paused{instance="d"}': f"1{STILL}",
            'correio_consumer_oldest_message_age_seconds{queue="correio.events"}': (
                f"0+60x{MINUTES}"
            ),
        },
        {"CorreioStoreDown": {}},
    ),
    "one kind of worker stopped": (
        AWAY["events"] | {
            one: f"0{STILL}"
            for one in QUEUES
            if "consumers" in one and "correio.events" in one
        },
        {"CorreioWorkerStopped": {"queue": "correio.events"}},
    ),
    "all workers stopped": (
        dict.fromkeys(QUEUES, GONE) | AWAY["events"] | AWAY["callbacks"],
        {"CorreioQueuesUnseen": {}},
    ),
    "events workers run unseen": (
        AWAY["events"],
        {"CorreioWorkersUnseen": {"queue": "correio.events"}},
    ),
    "callbacks workers run unseen": (
        dict.fromkeys(AWAY["callbacks"], GONE),  # nor is any looked for
        {"CorreioWorkersUnseen": {"queue": "correio.callbacks"}},
    ),
    "one worker gone": (
        {one: f"0{STILL}" if one.startswith("up") else GONE
         for one in HEALTHY if 'instance="c2"' in one},
        {"CorreioWorkerDown": {"job": "correio-events", "instance": "c2"}},
    ),
    "endpoint down": (
        {
            'correio_callbacks_breaker_open{endpoint="crm"}': f"1{STILL}",
            **slow("attempt", endpoint="crm"),
        },
        {"CorreioEndpointDown": {"endpoint": "crm"}},
    ),
    "endpoint slow": (
        slow("attempt", endpoint="crm"),
        {"CorreioEndpointSlow": {"endpoint": "crm"}},
    ),
    "quarantine growing": (
        {'correio_events_quarantined_total{source="klavi",reason="malformed"}': f"7+1x{MINUTES}"},
        {"CorreioQuarantineGrowing": {"reason": "malformed"}},
    ),
    "spool growing": (
        {'correio_spool_oldest_seconds{instance="a"}': f"0+60x{MINUTES}"},
        {"CorreioSpoolGrowing": {}},
    ),
    "spool full": (
        {
            **{one: f"0{STILL}" for one in HEALTHY if "broker_connected" in one},
            'correio_spool_full_total{instance="a"}': f"0+5x{MINUTES}",
            'correio_spool_bytes{instance="a"}': f"100{STILL}",
            'correio_spool_writable{instance="a"}': f"0{STILL}",
        },
        {"CorreioBrokerDown": {}, "CorreioSpoolFull": {}},
    ),
    "spool damaged": (
        {'correio_spool_damaged_total{instance="a"}': f"0+1x{MINUTES}"},
        {"CorreioSpoolDamaged": {}},
    ),
    "spool damaged before a receiver was first seen": (
        {
            'correio_spool_damaged_total{instance="e"}': f"_x{MINUTES - 10} 1+0x10",
            'process_start_time_seconds{instance="e"}': f"_x{MINUTES - 10} {START}+0x10",
        },
        {"CorreioSpoolDamaged": {}},
    ),
    "spool damaged once more by each start": (
        {'process_start_time_seconds{instance="b"}': f"0x{MINUTES - 10} {START}+0x10"},
        {"CorreioSpoolDamaged": {}},
    ),
    "deliveries late": (
        slow("late", endpoint="crm") | slow("late", endpoint="erp"),
        {"CorreioDeliveriesLate": {}},
    ),
    "deliveries exhausted": (
        {'correio_callbacks_deliveries_total{endpoint="crm",state="exhausted"}': f"2+1x{MINUTES}"},
        {"CorreioDeliveriesExhausted": {"endpoint": "crm"}},
    ),
    "retention late": (
        {'correio_retention_ended_timestamp_seconds{instance="c"}': f"0{STILL}"},
        {"CorreioRetentionLate": {}},
    ),
    "erasures late": (
        {'correio_erasures_overdue_seconds{instance="c"}': f"0+60x{MINUTES}"},
        {"CorreioErasuresLate": {}},
    ),
    "seals broken": (
        {'correio_unopened_total{instance="c"}': f"0x{MINUTES - 20} 1+0x20"},
        {"CorreioSealsBroken": {}},
    ),
    "backlog": (
        {'correio_consumer_oldest_message_age_seconds{queue="correio.events"}': f"90{STILL}"},
        {"CorreioBacklog": {"queue": "correio.events"}},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    assert found, "promtool is missing; it comes with Debian's package prometheus"
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def annotations(alert: str, labels: dict[str, str]) -> dict[str, str]:
    """What the rule says of the alert, its labels filled in."""
    text = RULES.split(f"- alert: {alert}\n")[1].split("- alert:")[0]
    found = {}
    for name, said in re.findall(r"^ {10}(summary|runbook): (.*)$", text, re.MULTILINE):
        filled = re.sub(r"{{ \$labels\.(\w+) }}", lambda m: labels[m[1]], said)
        found[name] = filled.strip('"')
    return found


def severity(alert: str) -> str:
    text = RULES.split(f"- alert: {alert}\n")[1]
    found = re.search(r"severity: (\w+)", text)
    assert found
    return found[1]


def expectation(fault: str) -> list[dict[str, Any]]:
    """For every alert: whether this fault raises it."""
    _, raised = FAULTS[fault]
    return [
        {
            "eval_time": f"{MINUTES - 5}m",
            "alertname": alert,
            "exp_alerts": [
                {
                    "exp_labels": {"severity": severity(alert), **raised[alert]},
                    "exp_annotations": annotations(alert, raised[alert]),
                }
            ]
            if alert in raised
            else [],
        }
        for alert in ALERTS
    ]


def test_each_fault_raises_its_own_alert_and_no_other(promtool: str, tmp_path: Path) -> None:
    suite = {
        "rule_files": [str(PROMETHEUS / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "name": fault,
                "interval": "1m",
                "input_series": [
                    {"series": series, "values": values}
                    for series, values in {**HEALTHY, **changed}.items()
                ],
                "alert_rule_test": expectation(fault),
            }
            for fault, (changed, _) in FAULTS.items()
        ],
    }
    path = tmp_path / "suite.yml"
    path.write_bytes(orjson.dumps(suite))  # JSON is YAML
    run(promtool, "test", "rules", path)


def test_every_alert_is_raised_by_some_fault() -> None:
    assert {alert for _, raised in FAULTS.values() for alert in raised} == set(ALERTS)


def test_the_configuration_and_its_rules_are_sound(promtool: str) -> None:
    run(promtool, "check", "config", PROMETHEUS / "prometheus.yml")


def test_every_alert_has_its_runbook() -> None:
    text = RUNBOOKS.read_text()
    anchors = {
        heading.lower().replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", text, re.MULTILINE)
    }
    named = set(re.findall(r"runbook: deploy/runbooks\.md#([\w-]+)", RULES))
    assert len(re.findall(r"^ +runbook: ", RULES, re.MULTILINE)) == len(ALERTS)
    assert named == anchors


def exposed() -> dict[str, tuple[str, ...]]:
    """The metrics of every process, by the name under which they are scraped, and their labels."""
    for module in ("console.service", "worker.events.service", "worker.callbacks.service"):
        importlib.import_module(module)
    registry = CollectorRegistry()
    Metrics(registry)
    collectors = [*REGISTRY._collector_to_names, *registry._collector_to_names]
    return {"correio_build_info": ("version",)} | {
        one._name + ("_total" if isinstance(one, Counter) else ""): one._labelnames
        for one in collectors
        if isinstance(one, MetricWrapperBase) and not isinstance(one, Info)
    }


def test_every_metric_is_listed_with_its_labels() -> None:
    listed = {}
    for line in METRICS.read_text().splitlines():
        if line.startswith("| `correio_"):
            name, _, labels, _ = (cell.strip() for cell in line.strip("|").split("|"))
            listed[name.strip("`")] = tuple(re.findall(r"`(\w+)`", labels))
    assert listed == exposed()


@pytest.mark.parametrize("title", DASHBOARDS)
def test_a_dashboard_is_what_its_table_says(title: str) -> None:
    assert file_of(title).read_text() == text_of(title), (
        "run python -m deploy.grafana.make_dashboards"
    )


def test_every_query_of_every_panel_is_sound(promtool: str, tmp_path: Path) -> None:
    queries = [
        query for panels in DASHBOARDS.values() for one in panels for query, _ in one.queries
    ]
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "rules.yml"
    path.write_bytes(orjson.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(queries)} rules found" in run(promtool, "check", "rules", path)
    asked = {re.sub(r"_bucket$", "", name) for name in re.findall(r"correio_\w+", str(queries))}
    assert asked <= set(exposed())


def test_the_rules_ask_only_for_metrics_that_exist() -> None:
    known = set(exposed()) | {"correio_events_paused", "correio_callbacks_paused"}
    asked = {re.sub(r"_bucket$", "", one) for one in re.findall(r"\bcorreio_\w+", RULES)}
    assert asked - {"correio_"} <= known


def test_every_command_of_the_runbooks_exists() -> None:
    named = re.findall(r"(?:`|^)(correio [^`#\n]*)", RUNBOOKS.read_text(), re.MULTILINE)
    assert len(named) > 15
    for line in named:
        _, *words = line.split()
        command: click.Command = cli
        while words and isinstance(command, click.Group) and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not isinstance(command, click.Group), line
        options = {option for param in command.params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
