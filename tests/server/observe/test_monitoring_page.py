"""docs/operations/monitoring.md lists what /metrics answers, and alerts and dashboard ask for nothing else.

COFFER_WRITE_GOLDEN=1 rewrites the page's table: read the diff.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import absent
from tests.server.tls_site import Pki, config_of, serving, until

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/operations/monitoring.md"
DEPLOY = ROOT / "docs/operations/deploy/monitoring"
BEGIN, END = "<!-- metrics -->\n", "<!-- end of metrics -->"
OURS = re.compile(r"\bcoffer_[a-z_]+")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a server with TLS and a revocation list answers."""
    base = tmp_path_factory.mktemp("monitored")
    pki = Pki(base)
    pki.own()
    pki.revoke()
    config = config_of(pki, base)
    with serving(config):
        address = f"http://127.0.0.1:{config.http.port}/metrics"
        until(lambda: "coffer_tls_up 1.0" in httpx.get(address).text)
        yield httpx.get(address).text


def families(page: str) -> dict[str, tuple[str, str, str]]:
    """Type, labels and meaning of each metric of ours, by name."""
    texts = dict(re.findall(r"^# HELP (coffer_\w+) (.*)$", page, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (coffer_\w+) (\w+)$", page, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in texts}
    for sample, inside in re.findall(r"^(coffer_\w+)\{(.*)\} ", page, re.MULTILINE):
        name = max((each for each in texts if sample.startswith(each)), key=len)
        labels[name] |= set(re.findall(r"(\w+)=\"", inside)) - {"le"}
    return {name: (kinds[name], ", ".join(sorted(labels[name])), text) for name, text in texts.items()}


def test_every_metric_stands_there_with_its_meaning(page: str) -> None:
    rows = [
        f"| `{name}` | {kind} | {labels} | {text} |" for name, (kind, labels, text) in sorted(families(page).items())
    ]
    table = "\n".join(["| Metric | Type | Labels | Meaning |", "|---|---|---|---|", *rows, ""])
    written = PAGE.read_text(encoding="utf-8")
    head, rest = written.split(BEGIN)
    if os.environ.get("COFFER_WRITE_GOLDEN"):
        PAGE.write_text(head + BEGIN + table + END + rest.split(END)[1], encoding="utf-8")
        return
    assert rest.split(END)[0] == table, "run it with COFFER_WRITE_GOLDEN=1"


def samples(page: str) -> set[str]:
    """The names that a query may use."""
    names = set(families(page)) | {line.partition(" ")[0].partition("{")[0] for line in page.splitlines()}
    return names | {name + end for name, (kind, _, _) in families(page).items() if kind == "histogram"
                    for end in ("_bucket", "_sum", "_count")}  # fmt: skip


def test_alerts_and_dashboard_ask_for_what_there_is(page: str) -> None:
    alerts = (DEPLOY / "alerts.yml").read_text()
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = set(OURS.findall("\n".join([alerts, (DEPLOY / "alerts_test.yml").read_text(), *queries])))
    assert asked - samples(page) == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    alerting = set(re.findall(r"alert: (\w+)", alerts))
    assert set(re.findall(r"`(Coffer\w+)`", PAGE.read_text(encoding="utf-8"))) == alerting


def test_promtool_accepts_rules_scrape_and_the_tests_of_the_rules() -> None:
    promtool = shutil.which("promtool", path="/usr/bin:/usr/local/bin")
    if promtool is None:
        absent("promtool is not installed: apt install prometheus")
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *words], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
