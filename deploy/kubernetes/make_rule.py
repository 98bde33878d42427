"""The alerts as a PrometheusRule: ``python -m deploy.kubernetes.make_rule`` writes it."""

from pathlib import Path
from textwrap import indent
from typing import Final

ALERTS: Final = Path(__file__).parents[1] / "prometheus" / "alerts.yml"
RULE: Final = Path(__file__).parent / "base" / "prometheus-rule.yaml"

_HEAD = """\
# Made from deploy/prometheus/alerts.yml by deploy/kubernetes/make_rule.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: correio}
spec:
"""


def text() -> str:
    """The file's text."""
    return _HEAD + indent(ALERTS.read_text(), "  ", lambda line: bool(line.strip()))


if __name__ == "__main__":
    RULE.write_text(text())
