"""Prometheus metrics of the pipeline: the overview and the history, as an alert or a dashboard asks for them.

Nothing here is about one instance or one patient, and no label has values that a peer could choose: they are the words
of docs/glossary.md, roles, and the statuses that a receiver answers. What cannot be read is left out, and
`stowgate_ledger_readable` says so: a missing number is not a zero.

Counters begin anew with the console, as those of any process do; those that receivers count themselves are summed up
here over all of them, so that one that restarts takes nothing away.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from common.ledger_reader import LATENCIES, Heap
from common.presence import Process
from common.records import Cause, Event, State
from console.activity import Total
from console.overview import DestinationView, Overview, Severity

MODES = ("open", "doubted", "paused", "unknown")
ROLES = ("receiver", "uploader", "console")
SENT_CAUSES = (Cause.NONE, Cause.DUPLICATE, Cause.WARNING)
QUARANTINE_CAUSES = tuple(cause for cause in Cause if cause not in SENT_CAUSES)
OTHER = "other"
_MOST_WORDS = 64  # of statuses and reasons that receivers may count by
_MAX_WORD = 40
_MOST_PROCESSES = 256  # that are remembered, living and dead

Totals = Mapping[tuple[Event, str], Total]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scrape is made of: the overview, and what happened since the console began to look."""

    overview: Overview
    totals: Totals


class Pipeline:
    """A collector for prometheus_client.

    Args:
        look: at all of it.
    """

    def __init__(self, look: Callable[[], Seen]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._refused = Summed("refused")
        self._rejected = Summed("rejected")

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it does not look."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All of it, at this moment."""
        begun = time.monotonic()
        seen = self._look()
        overview = seen.overview
        with self._lock:
            self._refused.take(overview.of_role("receiver"))
            self._rejected.take(overview.of_role("receiver"))
            refused, rejected = dict(self._refused.totals), dict(self._rejected.totals)
        yield from _of_the_ledger(overview)
        yield from _of_the_history(seen.totals)
        yield from _of_the_destination(overview)
        yield from _of_the_disk(overview)
        yield from _of_the_processes(overview)
        yield _counter("refused", "C-STORE requests that receivers refused, by DIMSE status.", "status", refused)
        yield _counter("rejected", "Associations that receivers rejected, by reason.", "reason", rejected)
        troubles = GaugeMetricFamily(
            "stowgate_troubles", "What is not well, as the console's page and `status` say it.", labels=["severity"]
        )
        for severity in Severity:
            troubles.add_metric([severity], sum(trouble.severity is severity for trouble in overview.troubles))
        yield troubles
        yield _gauge("scrape_seconds", "How long it took to look at all of this.", time.monotonic() - begun)


class Summed:
    """A counter of several processes, which come and go, as one that never falls.

    Args:
        name: of the fact, a mapping from words to numbers.
    """

    def __init__(self, name: str) -> None:
        self.totals: dict[str, float] = {}
        self._name = name
        self._last: dict[tuple[str, int, str], Mapping[str, int]] = {}

    def take(self, processes: Iterable[Process]) -> None:
        """Add what living processes counted since the last time."""
        for process in processes:
            key = process.host, process.pid, process.started_at.isoformat()
            before = self._last.pop(key, {})
            now = _numbers(process.facts.get(self._name))
            for word, count in now.items():
                label = word if word in self.totals or len(self.totals) < _MOST_WORDS else OTHER
                # 0 too: a series that begins with its first event has no increase.
                self.totals[label] = self.totals.get(label, 0) + max(count - before.get(word, 0), 0)
            self._last[key] = {**before, **now}
        # One that cannot be read for a moment is not counted anew.
        for key in list(self._last)[:-_MOST_PROCESSES]:
            del self._last[key]


def _of_the_ledger(overview: Overview) -> Iterator[Metric]:
    yield _gauge("ledger_readable", "1 if the ledger can be read, 0 if not.", float(not overview.ledger_error))
    if not overview.heaps:
        return
    counts = {state.value: overview.heaps[state].instances for state in State}
    yield _gauges("instances", "Instances in the ledger, by state.", "state", counts)
    sizes = {state.value: overview.heaps[state].size_bytes for state in (State.INCOMING, State.QUARANTINE)}
    yield _gauges("instance_bytes", "Bytes of the instances on the disk, by state.", "state", sizes)
    held = {cause.value: overview.causes.get(cause, Heap()).instances for cause in QUARANTINE_CAUSES}
    yield _gauges("quarantine_instances", "Instances in quarantine, by cause.", "cause", held)
    waiting = overview.oldest_waiting
    age = max((overview.at - waiting).total_seconds(), 0.0) if waiting else 0.0
    yield _gauge("oldest_waiting_seconds", "How long the oldest instance that is owed has waited; 0: none is.", age)
    transfers = overview.transfers.values()
    yield _gauge("transfers", "Requests to the destination under way for more than ten seconds.", len(transfers))
    yield _gauge("transfer_bytes", "Bytes of those requests.", sum(one.size_bytes for one in transfers))
    yield _gauge("transfer_sent_bytes", "Bytes of those that are out.", sum(one.sent_bytes for one in transfers))
    still = [(overview.at - one.moved_at).total_seconds() for one in transfers if one.sent_bytes < one.size_bytes]
    yield _gauge("transfer_stalled_seconds", "How long no byte of the most stuck one went out.", max([0.0, *still]))


def _of_the_history(totals: Totals) -> Iterator[Metric]:
    def sums(event: Event, causes: Iterable[str]) -> dict[str, Total]:
        found = dict.fromkeys(causes, Total()) or {OTHER: Total()}
        for (of, cause), total in totals.items():
            if of is event:
                label = cause if cause in found else OTHER
                before = found.get(label, Total())
                found[label] = Total(before.count + total.count, before.size_bytes + total.size_bytes)
        return found

    came = {event.value: sums(event, ())[OTHER] for event in (Event.RECEIVED, Event.ADOPTED)}
    for name, text, label, of in (
        ("received", "instances that came: received by C-STORE, or adopted from the folder", "event", came),
        ("sent", "instances that the destination confirmed", "cause", sums(Event.SENT, SENT_CAUSES)),
        ("quarantined", "instances that went to quarantine", "cause", sums(Event.QUARANTINED, QUARANTINE_CAUSES)),
    ):
        counts, sizes = (
            {key: float(total.count) for key, total in of.items()},
            {key: float(total.size_bytes) for key, total in of.items()},
        )
        yield _counter(name, f"How many {text}.", label, counts)
        yield _counter(f"{name}_bytes", f"Bytes of {text}.", label, sizes)
    attempts = {key: float(total.count) for key, total in sums(Event.ATTEMPT, Cause).items()}
    yield _counter("attempts", "Deliveries that did not settle their instance, and were about it.", "cause", attempts)
    for event in (Event.RELEASED, Event.REMOVED):
        count = sum(total.count for (of, _), total in totals.items() if of is event)
        yield _counter(event.value, f"How many instances were {event.value} by a person.", "", {"": float(count)})
    sent = [total for (event, _), total in totals.items() if event is Event.SENT]
    buckets = [(str(bound), float(sum(one.within[at] for one in sent))) for at, bound in enumerate(LATENCIES)]
    yield HistogramMetricFamily(
        "stowgate_delivery_seconds",
        "From being received to being sent.",
        buckets=[*buckets, ("+Inf", float(sum(one.count for one in sent)))],
        sum_value=sum(one.seconds for one in sent),
    )


def _of_the_destination(overview: Overview) -> Iterator[Metric]:
    view: DestinationView = overview.destination
    modes = {mode: float(view.mode == mode) for mode in MODES}
    yield _gauges("destination_mode", "1 for the mode in which the destination is, 0 for the others.", "mode", modes)
    if view.since is not None:
        age = max((overview.at - view.since).total_seconds(), 0.0)
        yield _gauge("destination_mode_seconds", "How long it has been in that mode.", age)
    if view.next_probe_at is not None:
        left = (view.next_probe_at - overview.at).total_seconds()
        yield _gauge("destination_next_probe_seconds", "How long until it is probed; only while it is paused.", left)
    status = view.http_status or 0
    yield _gauge("destination_http_status", "HTTP status of its last trouble; 0 if there was none.", status)


def _of_the_disk(overview: Overview) -> Iterator[Metric]:
    if overview.disk is None:
        return
    yield _gauge("disk_size_bytes", "Size of the spool's filesystem.", overview.disk.size_bytes)
    yield _gauge("disk_free_bytes", "Free on it.", overview.disk.free_bytes)
    yield _gauge("disk_min_free_bytes", "Below this senders are refused ([spool] min_free).", overview.disk.min_free)


def _of_the_processes(overview: Overview) -> Iterator[Metric]:
    running = {role: len(overview.of_role(role)) for role in ROLES}
    yield _gauges("processes", "Processes that live, by role.", "role", running)
    silence = {
        role: max((overview.at - one.seen_at).total_seconds() for one in overview.of_role(role))
        for role in ROLES
        if overview.of_role(role)
    }
    yield _gauges("process_silence_seconds", "How long the most silent of them has said nothing.", "role", silence)
    started = {
        role: max(one.started_at.timestamp() for one in overview.of_role(role))
        for role in ROLES
        if overview.of_role(role)
    }
    yield _gauges("process_start_time_seconds", "When the newest of them started, Unix time.", "role", started)
    for name, text, role, fact in (
        ("associations", "Associations that are open.", "receiver", "associations"),
        ("uploader_threads", "Requests that may be under way at a time.", "uploader", "threads"),
        ("requests_under_way", "Requests to the destination that are under way.", "uploader", "under_way"),
    ):
        yield _gauge(name, text, sum(_number(one.facts.get(fact)) for one in overview.of_role(role)))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"stowgate_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"stowgate_{name}", text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"stowgate_{name}", text, labels=[label] if label else [])
    for word, value in values.items():
        family.add_metric([word] if label else [], value)
    return family


def _number(fact: object) -> int:
    return fact if isinstance(fact, int) else 0


def _numbers(fact: object) -> dict[str, int]:
    if not isinstance(fact, Mapping):
        return {}
    return {str(word)[:_MAX_WORD]: count for word, count in fact.items() if isinstance(count, int)}
