"""/metrics, /healthz and /readyz."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.ledger import Ledger
from common.presence import Process
from common.records import Cause, Event, State, utc_text
from console import metrics, overview
from console.activity import Total
from console.metrics import Summed
from console.web import monitoring
from support.watched import PATIENT, PEER_AE_TITLE, Watched, watched, with_a_past


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_FRESH_SECONDS", -1.0)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path) as found:
        yield found


def samples(gateway: Watched) -> dict[str, float]:
    """Sample by name and labels."""
    answer = gateway.app().test_client().get("/metrics")
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('stowgate_')}{{{labels}}}" if labels else sample.name[9:]] = sample.value
    return found


def test_metrics_say_what_happened_and_how_it_is(gateway: Watched) -> None:
    """Counters, gauges and the histogram, in the words of the ledger."""
    found = samples(with_a_past(gateway))
    expected = {
        "received_total{event=received}": 6,
        "received_bytes_total{event=received}": 6000,
        "received_total{event=adopted}": 0,
        "sent_total{cause=}": 2,
        "sent_total{cause=duplicate}": 1,
        "sent_bytes_total{cause=}": 2000,
        "quarantined_total{cause=refused}": 1,
        "quarantined_bytes_total{cause=conflict}": 1000,
        "quarantined_total{cause=gave-up}": 0,
        "attempts_total{cause=gave-up}": 1,
        "released_total": 0,
        "delivery_seconds_count": 3,
        "delivery_seconds_bucket{le=5.0}": 3,
        "delivery_seconds_bucket{le=+Inf}": 3,
        "instances{state=incoming}": 1,
        "instances{state=sent}": 3,
        "instances{state=quarantine}": 2,
        "instance_bytes{state=quarantine}": 2000,
        "quarantine_instances{cause=conflict}": 1,
        "quarantine_instances{cause=too-large}": 0,
        "transfers": 1,
        "transfer_bytes": 1000,
        "transfer_sent_bytes": 400,
        "destination_mode{mode=open}": 1,
        "destination_mode{mode=paused}": 0,
        "disk_min_free_bytes": 1_000_000,
        "processes{role=receiver}": 1,
        "processes{role=console}": 0,
        "associations": 3,
        "requests_under_way": 2,
        "uploader_threads": 4,
        "refused_total{status=A700}": 2,
        "rejected_total{reason=calling-ae-title}": 5,
        "ledger_readable": 1,
        "troubles{severity=warning}": 1,
        "troubles{severity=error}": 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 29 < found["transfer_stalled_seconds"] < 60
    assert 0 < found["oldest_waiting_seconds"] < 60
    assert 0 <= found["process_silence_seconds{role=receiver}"] < 30
    assert found["disk_size_bytes"] > found["disk_free_bytes"] > 0
    assert 0 < found["scrape_seconds"] < 5


def test_a_paused_destination_is_told(gateway: Watched) -> None:
    """Since when, its status, and when it is probed."""
    now = datetime.now(UTC)
    gateway.uploader["destination"] = {
        "mode": "paused",
        "reason": f"{PATIENT} is what no metric says",
        "http_status": 503,
        "since": utc_text(now - timedelta(seconds=100)),
        "next_probe_at": utc_text(now + timedelta(seconds=50)),
    }
    gateway.presences["uploader"].say()
    found = samples(gateway)
    assert (found["destination_mode{mode=paused}"], found["destination_mode{mode=open}"]) == (1, 0)
    assert found["destination_http_status"] == 503
    assert 99 < found["destination_mode_seconds"] < 110
    assert 39 < found["destination_next_probe_seconds"] <= 50


def test_no_metric_says_anything_of_a_patient_or_a_peer(gateway: Watched) -> None:
    """Neither values nor labels; and labels come from lists that nobody outside can make longer."""
    with_a_past(gateway)
    gateway.receiver["refused"] = {f"{number:04X}" + "x" * 100: 1 for number in range(8)}
    gateway.receiver["rejected"] = {f"reason {number}": 1 for number in range(100)}
    gateway.presences["receiver"].say()
    text = gateway.app().test_client().get("/metrics").text
    assert PATIENT not in text
    assert PEER_AE_TITLE not in text
    assert "192.0.2.7" not in text
    assert "2.25." not in text
    assert text.count("stowgate_rejected_total{") <= 66
    assert 'reason="other"' in text
    assert max(len(line) for line in text.splitlines()) < 200


def test_every_cause_has_its_place() -> None:
    """None of the ledger's words is left out, and one that is none of them counts as other."""
    assert {*metrics.SENT_CAUSES, *metrics.QUARANTINE_CAUSES} == set(Cause)
    seen = metrics.Seen(
        overview.Overview(datetime.now(UTC), overview.DestinationView("")),
        {(Event.ATTEMPT, "invented"): Total(3), (Event.QUARANTINED, "gave-up"): Total(2)},
    )
    families = {family.name: family for family in metrics.Pipeline(lambda: seen).collect()}
    attempts = {sample.labels["cause"]: sample.value for sample in families["stowgate_attempts"].samples}
    assert (attempts["other"], attempts["gave-up"]) == (3, 0)


def process(pid: int, **refused: int) -> Process:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Process("receiver", pid, "host", now, now, {"refused": refused})


def test_counts_of_processes_are_summed_up_and_never_fall() -> None:
    """One that restarts, ends, or cannot be read for a moment takes nothing away and counts nothing twice."""
    summed = Summed("refused")
    history = [
        ([process(1, A700=100), process(2, A700=50)], 150),
        ([process(1, A700=101), process(2, A700=50)], 151),
        ([process(2, A700=50)], 151),
        ([process(1, A700=101), process(2, A700=52)], 153),
        ([process(2, A700=52), process(3, A700=4, C000=1)], 157),
        ([], 157),
    ]
    for processes, total in history:
        summed.take(processes)
        assert summed.totals["A700"] == total
    assert summed.totals["C000"] == 1


def test_what_cannot_be_read_is_left_out_and_told(gateway: Watched) -> None:
    """A ledger that is no ledger: no counts, and a gauge that says so."""
    with_a_past(gateway)
    gateway.ledger.close()
    for path in gateway.spool.directory.glob("ledger.db*"):
        path.unlink()
    gateway.spool.ledger.write_bytes(b"no ledger" * 1000)
    found = samples(gateway)
    assert found["ledger_readable"] == 0
    assert "instances{state=incoming}" not in found
    assert found["processes{role=receiver}"] == 1
    assert found["received_total{event=received}"] == 6


def test_a_token_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    """For /metrics alone."""
    with watched(tmp_path, metrics_token="t0ken") as gateway:
        client = gateway.app().test_client()
        for shown in (None, "Bearer", "Bearer t0ke", "Bearer t0kenX", "Basic t0ken", "bearer \u00fc"):
            headers = {} if shown is None else {"Authorization": shown}
            answer = client.get("/metrics", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert "stowgate_" not in answer.text
        assert client.get("/metrics", headers={"Authorization": "Bearer t0ken"}).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_openmetrics_is_spoken_with_those_who_ask_for_it(gateway: Watched) -> None:
    """As Prometheus does."""
    client = gateway.app().test_client()
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert client.get("/metrics").content_type.startswith("text/plain")


def ready(gateway: Watched) -> tuple[int, str]:
    client = gateway.app().test_client()
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    return answer.status_code, answer.text


def test_it_is_ready_when_instances_are_received_and_delivered(gateway: Watched) -> None:
    """Not without a receiver or an uploader; a paused destination is no reason, since receiving goes on."""
    assert ready(gateway) == (200, "instances are received and delivered\n")
    gateway.uploader["destination"] = {"mode": "paused", "reason": "it is away"}
    gateway.presences["uploader"].say()
    assert ready(gateway)[0] == 200
    for role in ("receiver", "uploader"):
        gateway.stop(role)
        status, text = ready(gateway)
        assert status == 503
        assert f"No {role} is running" in text
        gateway.start(role)
    assert ready(gateway)[0] == 200


def test_it_is_not_ready_without_its_disk_or_its_ledger(gateway: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told in words; the console itself stays healthy."""
    gateway.ledger.close()
    gateway.spool.ledger.write_bytes(b"no ledger" * 1000)
    status, text = ready(gateway)
    assert status == 503
    assert "ledger" in text
    gateway.spool.ledger.unlink()
    for path in gateway.spool.directory.glob("ledger.db-*"):
        path.unlink()
    Ledger(gateway.spool.ledger).close()
    assert ready(gateway)[0] == 200
    monkeypatch.setattr(overview, "_disk", lambda _: overview.Disk(100, 5, 10))
    status, text = ready(gateway)
    assert (status, "disk is fuller" in text) == (503, True)
    monkeypatch.undo()
    shutil.rmtree(gateway.spool.directory)
    status, text = ready(gateway)
    assert status == 503
    assert "The spool directory cannot be read" in text


def test_who_asks_often_costs_nothing_more(gateway: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overview serves for a second."""
    monkeypatch.setattr(monitoring, "_FRESH_SECONDS", 60.0)
    looks = []
    monkeypatch.setattr(monitoring, "look", lambda config: looks.append(config) or overview.look(config))
    client = gateway.app().test_client()
    for path in ("/metrics", "/readyz", "/metrics", "/readyz"):
        assert client.get(path).status_code == 200
    assert len(looks) == 1
    assert State.INCOMING in overview.look(gateway.config).heaps
