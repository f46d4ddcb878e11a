"""The one screen of `status` and `watch`, and the same as a JSON document."""

import contextlib
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.config import Config
from common.errors import LedgerError
from common.ledger_reader import LedgerReader
from common.presence import Process
from common.records import State, Transfer
from console.cli.printing import local, pairs, shown, table, zone
from console.overview import Overview, Severity, Trouble, look
from console.rates import Rates, rates
from console.words import count_of, duration, rate, size

_STYLES = {"open": "green", "doubted": "yellow", "paused": "bold red", "unknown": "yellow"}
_STUCK_SECONDS = 30.0
_KEPT = frozenset((State.INCOMING, State.QUARANTINE))  # whose files are there


class Screen:
    """What is shown at one moment.

    Args:
        config: the configuration.
    """

    def __init__(self, config: Config) -> None:
        self.overview: Overview = look(config)
        self.rates: Rates | None = None
        with contextlib.suppress(LedgerError):  # the overview says that it cannot be read
            self.rates = rates(LedgerReader(config.spool.directory / "ledger.db"), self.overview.at)

    @property
    def exit_status(self) -> int:
        """1 if something does not work."""
        return 1 if any(trouble.severity is Severity.ERROR for trouble in self.overview.troubles) else 0

    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        overview, destination, disk = self.overview, self.overview.destination, self.overview.disk
        measured = self.rates
        return {
            "at": overview.at,
            "well": not self.exit_status,
            "states": {
                state.value: {"instances": heap.instances}
                | ({"size_bytes": heap.size_bytes, "oldest": heap.oldest or None} if state in _KEPT else {})
                for state, heap in overview.heaps.items()
            },
            "quarantine": {
                cause.value or "unknown": {"instances": heap.instances, "size_bytes": heap.size_bytes}
                for cause, heap in overview.causes.items()
            },
            "oldest_waiting": overview.oldest_waiting,
            "destination": {
                "url": destination.url,
                "mode": destination.mode,
                "reason": destination.reason,
                "http_status": destination.http_status,
                "since": destination.since,
                "next_probe_at": destination.next_probe_at,
            },
            "rates": None if measured is None else {name: getattr(measured, name) for name in Rates.__slots__},
            "disk": None
            if disk is None
            else {"size_bytes": disk.size_bytes, "free_bytes": disk.free_bytes, "min_free": disk.min_free},
            "transfers": [
                {name: getattr(transfer, name) for name in Transfer.__slots__}
                for transfer in overview.transfers.values()
            ],
            "processes": [
                {
                    "role": process.role,
                    "pid": process.pid,
                    "host": process.host,
                    "started_at": process.started_at,
                    "seen_at": process.seen_at,
                    "facts": dict(process.facts),
                }
                for process in overview.processes
            ],
            "ledger_error": overview.ledger_error,
            "troubles": [
                {"key": one.key, "severity": one.severity.value, "text": one.text, "advice": one.advice}
                for one in overview.troubles
            ],
        }

    def render(self, *, bars: bool) -> RenderableType:
        """All of it for people.

        Args:
            bars: the progress of transfers as bars, not as numbers alone.
        """
        overview = self.overview
        parts: list[RenderableType] = [self._headline(), Text()]
        parts.append(pairs(self._facts()))
        if overview.transfers:
            parts += [Text(), self._transfers(bars=bars)]
        if overview.processes:
            parts += [Text(), _processes(overview)]
        for trouble in overview.troubles:
            parts += [Text(), *_trouble(trouble)]
        return Group(*parts)

    def line(self) -> str:
        """All of it on one line, for where there is no screen."""
        overview, measured = self.overview, self.rates
        heaps = " ".join(f"{state.value}={heap.instances}" for state, heap in overview.heaps.items())
        speed = f" sent_per_second={measured.sent / measured.seconds:.1f}" if measured else ""
        troubles = ",".join(trouble.key for trouble in overview.troubles) or "none"
        return f"{local(overview.at)} {heaps} destination={overview.destination.mode}{speed} troubles={troubles}"

    def _headline(self) -> Text:
        troubles, at = self.overview.troubles, f"  {local(self.overview.at)} {zone()}"
        if self.exit_status:
            return Text.assemble(("NOT WELL", "bold red"), at)
        if troubles:
            return Text.assemble(("Working, and somebody should look", "bold yellow"), at)
        return Text.assemble(("All is well", "bold green"), at)

    def _facts(self) -> dict[str, Text | str]:
        overview, measured = self.overview, self.rates
        heaps, now = overview.heaps, overview.at
        facts: dict[str, Text | str] = {}
        if heaps:
            facts["received"] = count_of(sum(heap.instances for heap in heaps.values()), "instance")
            facts["sent"] = count_of(heaps[State.SENT].instances, "instance")
            waiting = heaps[State.INCOMING]
            facts["waiting"] = _heap(waiting.instances, waiting.size_bytes) + _ago(overview.oldest_waiting, now)
            quarantine = heaps[State.QUARANTINE]
            causes = ", ".join(
                f"{heap.instances:,} {cause.value or 'unknown'}" for cause, heap in overview.causes.items()
            )
            held = _heap(quarantine.instances, quarantine.size_bytes) + (f": {causes}" if causes else "")
            facts["quarantine"] = Text(held, style="yellow" if quarantine.instances else "")
            if heaps[State.REMOVED].instances:
                facts["removed"] = count_of(heaps[State.REMOVED].instances, "instance")
        if measured is not None:
            facts[f"last {duration(measured.seconds)}"] = _speed(measured)
        facts["destination"] = self._destination()
        if disk := overview.disk:
            facts["disk"] = (
                f"{size(disk.free_bytes)} free of {size(disk.size_bytes)}, {size(disk.min_free)} must stay free"
            )
        return facts

    def _destination(self) -> Text:
        destination, now = self.overview.destination, self.overview.at
        text = Text.assemble((destination.mode, _STYLES[destination.mode]))
        if destination.since:
            text.append(f" for {duration((now - destination.since).total_seconds())}")
        if destination.reason and destination.mode != "open":
            text.append(": ").append_text(shown(destination.reason))
        if destination.next_probe_at and destination.mode == "paused":
            wait = (destination.next_probe_at - now).total_seconds()
            text.append(f"; next probe in {duration(wait)}" if wait > 0 else "; next probe now")
        return text.append("  ").append_text(shown(destination.url, "dim"))

    def _transfers(self, *, bars: bool) -> Table:
        now = self.overview.at
        rows = sorted(self.overview.transfers.values(), key=lambda transfer: transfer.begun_at)
        if not bars:
            return table(
                ["under way", "instances", "sent", "of", "for", "file"],
                [
                    (
                        _percent(one),
                        one.instances,
                        size(one.sent_bytes),
                        size(one.size_bytes),
                        _spent(one, now),
                        one.file_name,
                    )
                    for one in rows
                ],
                right=("instances", "sent", "of"),
            )
        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in ("under way", "", "of", "for", "file"):
            made.add_column(heading, overflow="fold")
        for one in rows:
            bar = ProgressBar(total=max(one.size_bytes, 1), completed=one.sent_bytes, width=24)
            made.add_row(bar, _percent(one), size(one.size_bytes), _spent(one, now), shown(one.file_name))
        return made


def _trouble(trouble: Trouble) -> tuple[Text, Text]:
    style = "bold red" if trouble.severity is Severity.ERROR else "bold yellow"
    head = Text.assemble((f"{trouble.severity.value}: ", style)).append_text(shown(trouble.text))
    return head, Text("  ").append_text(shown(trouble.advice))


def _processes(overview: Overview) -> Table:
    return table(
        ["process", "pid", "up for", "says"],
        [
            (
                process.role,
                process.pid,
                duration((overview.at - process.started_at).total_seconds()),
                _said(process),
            )
            for process in overview.processes
        ],
        right=("pid",),
    )


def _said(process: Process) -> str:
    """What a process says of itself, as far as it is numbers and words."""
    plain = {name: value for name, value in process.facts.items() if isinstance(value, str | int | float)}
    counted = {
        name: sum(value.values())
        for name, value in process.facts.items()
        if isinstance(value, dict) and value and all(isinstance(number, int) for number in value.values())
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in (plain | counted).items())


def _speed(measured: Rates) -> str:
    def at(count: int, size_bytes: int) -> str:
        return f"{count:,} ({rate(count, measured.seconds)}, {size(size_bytes / measured.seconds)}/s)"

    text = f"received {at(measured.received, measured.received_bytes)}, sent {at(measured.sent, measured.sent_bytes)}"
    if measured.mean_seconds is not None:
        text += f", {measured.mean_seconds:.1f} s from received to sent"
    return text


def _heap(instances: int, size_bytes: int) -> str:
    return count_of(instances, "instance") + (f", {size(size_bytes)}" if instances else "")


def _ago(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f", the oldest for {duration((now - moment).total_seconds())}"


def _percent(transfer: Transfer) -> str:
    return f"{100 * transfer.sent_bytes // max(transfer.size_bytes, 1)} %"


def _spent(transfer: Transfer, now: datetime) -> str:
    text = duration((now - transfer.begun_at).total_seconds())
    still = (now - transfer.moved_at).total_seconds()
    if transfer.sent_bytes >= transfer.size_bytes:
        return f"{text}, waiting for the answer"
    return f"{text}, stuck for {duration(still)}" if still > _STUCK_SECONDS else text
