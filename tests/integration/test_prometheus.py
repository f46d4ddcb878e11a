"""Metrics, alert rules and the dashboard, held against each other by Prometheus itself."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from werkzeug.serving import make_server

from support.pipeline import ROOT, wait_for
from support.programs import free_port, needs_prometheus
from support.watched import watched, with_a_past

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "stowgate.json").read_text())
MANUAL = (ROOT / "docs" / "monitoring.md").read_text()
NAME = re.compile(r"\bstowgate_\w+\b")
TOKEN = "t0ken-of-the-metrics"

pytestmark = needs_prometheus


def promtool(*arguments: str, stdin: str = "") -> str:
    """Its output; it must be content."""
    ended = subprocess.run(
        ["promtool", *arguments], cwd=RULES, input=stdin, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one that answers /metrics of a gateway with a past, to who shows the token."""
    with watched(tmp_path_factory.mktemp("watched"), metrics_token=TOKEN) as gateway:
        with_a_past(gateway)
        server = make_server("127.0.0.1", 0, gateway.app(), threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def metrics(console: int) -> str:
    """A real answer."""
    shown = {"Authorization": f"Bearer {TOKEN}"}
    return requests.get(f"http://127.0.0.1:{console}/metrics", headers=shown, timeout=10).text


class Prometheus:
    """A running one."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; an error is an error."""
        answer = requests.get(f"{self._url}{path}", params=parameters, timeout=10)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def is_up(self) -> bool:
        """Whether it has scraped what it should."""
        try:
            return any(one["value"][1] == "1" for one in self.ask("query", query="up")["result"])
        except (OSError, AssertionError):
            return False


@pytest.fixture(scope="module")
def prometheus(console: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that goes by our example, but every second, at our port, with a token."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "token").write_text(TOKEN)
    (folder / "stowgate-alerts.yml").write_text((RULES / "stowgate-alerts.yml").read_text())
    example = (RULES / "prometheus.yml").read_text()
    settings = (
        example.replace("_interval: 15s", "_interval: 1s")
        .replace("127.0.0.1:11180", f"127.0.0.1:{console}")
        .replace("# authorization:", "authorization:")
        .replace("#   credentials_file: /etc/prometheus/stowgate-token", f"  credentials_file: {folder}/token")
    )
    (folder / "prometheus.yml").write_text(settings)
    port = free_port()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    found = Prometheus(port)
    try:
        wait_for(lambda: found.is_up() or process.poll() is not None, 30, (folder / "log").read_text())
        yield found
    finally:
        process.terminate()
        process.wait(30)


def alerts() -> dict[str, dict[str, str]]:
    """The alert rules by name, with their expression, as far as this file's own form goes."""
    found = {}
    for block in (RULES / "stowgate-alerts.yml").read_text().split("      - alert: ")[1:]:
        name, _, rest = block.partition("\n")
        expression = re.search(r"expr: (?:>\n)?(.*?)\n        for: (\S+)", rest, re.DOTALL)
        severity = re.search(r"severity: (\w+)", rest)
        summary = re.search(r"summary: (.+)", rest)
        runbook = re.search(r"runbook_url: (\S+)", rest)
        assert expression, name
        assert severity, name
        assert summary, name
        assert runbook, name
        found[name] = {"expr": expression[1], "severity": severity[1], "runbook": runbook[1]}
    return found


def expressions() -> dict[str, str]:
    """All that rules and dashboard ask, by where."""
    found = {name: alert["expr"] for name, alert in alerts().items()}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']} {panel['id']}"] = (
                target["expr"].replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "1m")
            )
    return found


def test_the_rules_are_valid() -> None:
    """By `promtool check`."""
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "stowgate-alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    """By `promtool test rules`; each has a test in which it fires, and one in which it does not."""
    assert "SUCCESS" in promtool("test", "rules", "stowgate-alerts-test.yml")
    tests = (RULES / "stowgate-alerts-test.yml").read_text()
    for name in alerts():
        assert f"alertname: {name}\n" in tests
        assert tests.count(f"alertname: {name}, ") >= 2


def test_the_answer_is_as_prometheus_likes_it(metrics: str) -> None:
    """By `promtool check metrics`: names, units, types, help texts."""
    assert promtool("check", "metrics", stdin=metrics) == ""


def test_all_that_is_asked_for_is_answered(metrics: str) -> None:
    """Every metric in rules and dashboard is in a real answer, or is one of a destination's pause."""
    given = set(NAME.findall(re.sub(r"(?m)^#.*$", "", metrics)))
    asked = {name for text in expressions().values() for name in NAME.findall(text)}
    assert len(asked) > 25
    assert asked <= given


def test_every_metric_and_alert_is_documented(metrics: str) -> None:
    """In docs/monitoring.md; the runbook of an alert is a section there."""
    families = set(re.findall(r"(?m)^# TYPE (\w+)", metrics))
    assert {name for name in families if f"`{name}`" not in MANUAL} == set()
    told = set(re.findall(r"`(stowgate_\w+)`", MANUAL))
    assert told - families <= {"stowgate_destination_next_probe_seconds"}
    for name, alert in alerts().items():
        assert f"### {name}\n" in MANUAL
        assert alert["runbook"] == f"docs/monitoring.md#{name.lower()}"
        assert alert["severity"] in {"critical", "warning"}


def test_prometheus_scrapes_it_and_answers_every_expression(prometheus: Prometheus) -> None:
    """With the token; nothing in rules or dashboard is an error, and what is not zero comes out."""
    wait_for(lambda: prometheus.ask("query", query="stowgate_received_total")["result"], what="a scrape")
    assert not prometheus.ask("query", query='scrape_samples_scraped{job="stowgate"} < 50')["result"]
    for expression in expressions().values():
        prometheus.ask("query", query=expression)
    waiting = prometheus.ask("query", query='stowgate_instances{state="incoming"}')["result"]
    assert [one["value"][1] for one in waiting] == ["1"]


def test_prometheus_loads_the_rules_and_no_alert_fires_at_once(prometheus: Prometheus) -> None:
    """All of them, healthy, by the example of a configuration."""

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert {rule["name"] for rule in rules()} == set(alerts())
    wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()), what="an evaluation")
    assert [rule["name"] for rule in rules() if rule["health"] != "ok" or rule["state"] == "firing"] == []


def test_the_dashboard_is_whole() -> None:
    """What Grafana goes by, as far as it can be told without one."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        assert panel["description"]
        assert panel["type"] in {"stat", "timeseries", "state-timeline"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used - variables <= {"__rate_interval", "__all"}
    assert variables <= used
    assert (DASHBOARD["uid"], DASHBOARD["id"]) == ("stowgate", None)
