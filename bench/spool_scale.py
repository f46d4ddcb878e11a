"""A spool as it is after months: `python -m bench.spool_scale FOLDER` makes one to look at, within a minute or two.

A million rows with two million events, ten thousand of them in quarantine, with their files and sidecars. The files
are small, and share their pixels; names and UIDs are all different. Rows go in without their indexes, which are made
afterwards: the tables are as a receiver leaves them, the indexes somewhat denser.
"""

import argparse
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import samples
from common.ledger import Ledger
from common.records import Cause, Event, State, utc_text
from common.spool import Spool

_CAUSES = (
    (Cause.REFUSED, 409, "HTTP 409, FailureReason A900"),
    (Cause.GAVE_UP, 500, "HTTP 500"),
    (Cause.CONFLICT, 409, "HTTP 409"),
    (Cause.TOO_LARGE, 413, "HTTP 413"),
    (Cause.UNCONFIRMED, 200, "HTTP 200 that does not name the instance"),
    (Cause.TRUNCATED, None, "it ends inside a data element"),
)
_SENDERS = tuple(f"MODALITY{number}" for number in range(1, 13))
_MODALITIES = ("CT", "MR", "CR", "US", "SR")
_PER_STUDY = 60
_STUDIES_PER_PATIENT = 3
_SIZE = 131_072  # bytes that the rows of what is gone speak of
_REMOVED_EVERY = 200
_ROWS = (
    "INSERT INTO instances (id, file_name, sop_instance_uid, sop_class_uid, patient_id, study_instance_uid,"
    " series_instance_uid, modality, transfer_syntax_uid, calling_ae_title, called_ae_title, peer_address, size_bytes,"
    " received_at, state, attempts, cause, http_status, settled_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_EVENTS = "INSERT INTO events (id, instance_id, at, event, http_status, cause, detail) VALUES (?,?,?,?,?,?,?)"


@dataclass(frozen=True)
class Scale:
    """How large.

    Attributes:
        rows: in the ledger.
        quarantined: of them, in quarantine, spread over all of the time.
        waiting: of them, the newest, owed.
        days: over which they came; the last came now.
    """

    rows: int = 1_000_000
    quarantined: int = 10_000
    waiting: int = 100
    days: float = 30.0


def make(folder: Path, scale: Scale, now: datetime | None = None) -> Spool:
    """Make the spool in a folder that is not there yet."""
    spool = Spool(folder)
    spool.prepare()
    Ledger(spool.ledger).close()
    sample = samples.make(32, 32)
    end = now or datetime.now(UTC)
    with closing(sqlite3.connect(spool.ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''"
        ).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.executemany(_ROWS, _rows(scale, end, sample.file_bytes))
        connection.executemany(_EVENTS, _events(scale, end))
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    _write_files(spool, scale, end, sample)
    return spool


def name_of(number: int) -> str:
    """The file name of a row."""
    return hashlib.md5(str(number).encode()).hexdigest() + ".dcm"  # noqa: S324 - as random as a uuid4


def state_of(number: int, scale: Scale) -> State:
    """The state of a row."""
    if number > scale.rows - scale.waiting:
        return State.INCOMING
    if scale.quarantined and number % (scale.rows // scale.quarantined) == 0:
        return State.QUARANTINE
    return State.REMOVED if number % _REMOVED_EVERY == 1 else State.SENT


def _times(number: int, scale: Scale, end: datetime) -> tuple[str, str]:
    received = end - timedelta(days=scale.days) * ((scale.rows - number) / scale.rows)
    return utc_text(received), utc_text(received + timedelta(seconds=0.2 + number % 17))


def _cause(number: int, scale: Scale) -> tuple[Cause, int | None, str]:
    return _CAUSES[number // (scale.rows // scale.quarantined) % len(_CAUSES)]


def _rows(scale: Scale, end: datetime, file_bytes: int) -> Iterator[tuple[Any, ...]]:
    for number in range(1, scale.rows + 1):
        state = state_of(number, scale)
        received, settled = _times(number, scale, end)
        there = state in {State.INCOMING, State.QUARANTINE}
        cause, status = (Cause.NONE, 200) if state is State.SENT else (Cause.NONE, None)
        if state is State.QUARANTINE:
            cause, status, _ = _cause(number, scale)
        study = number // _PER_STUDY
        yield (
            number,
            name_of(number),
            samples.uid(number),
            "1.2.840.10008.5.1.4.1.1.2",
            f"PID{study // _STUDIES_PER_PATIENT:07}",
            f"{samples.uid(study)}.1",
            f"{samples.uid(study)}.1.{number % 4}",
            _MODALITIES[study % len(_MODALITIES)],
            "1.2.840.10008.1.2.1",
            _SENDERS[study % len(_SENDERS)],
            "STOWGATE",
            f"192.0.2.{study % len(_SENDERS) + 1}",
            file_bytes if there else _SIZE,
            received,
            state,
            1 if state is State.SENT else 8 if state is State.QUARANTINE else 0,
            cause,
            status,
            None if state is State.INCOMING else settled,
        )


def _events(scale: Scale, end: datetime) -> Iterator[tuple[Any, ...]]:
    """Two for each row: what came and what became of it. One attempt in between for those in quarantine."""
    identity = 0
    for number in range(1, scale.rows + 1):
        state = state_of(number, scale)
        received, settled = _times(number, scale, end)
        identity += 1
        yield identity, number, received, Event.RECEIVED, None, "", ""
        if state is State.QUARANTINE:
            cause, status, detail = _cause(number, scale)
            if cause is not Cause.TRUNCATED:
                identity += 1
                yield identity, number, settled, Event.ATTEMPT, status, cause, detail
            identity += 1
            yield identity, number, settled, Event.QUARANTINED, status, cause, detail
        elif state is not State.INCOMING:
            identity += 1
            event = Event.SENT if state is State.SENT else Event.REMOVED
            yield identity, number, settled, event, 200 if state is State.SENT else None, "", ""


def _write_files(spool: Spool, scale: Scale, end: datetime, sample: samples.Sample) -> None:
    pixels = bytes(sample.pixel_bytes)
    step = scale.rows // scale.quarantined if scale.quarantined else scale.rows
    for number in range(step, scale.rows + 1, step):
        if state_of(number, scale) is not State.QUARANTINE:
            continue
        cause, status, detail = _cause(number, scale)
        received, settled = _times(number, scale, end)
        path = spool.quarantine.path / name_of(number)
        path.write_bytes(sample.numbered(number) + pixels)
        reason = {
            "cause": cause,
            "detail": detail,
            "http_status": status,
            "received_at": received,
            "quarantined_at": settled,
            "sop_instance_uid": samples.uid(number),
            "attempts": 8,
            "failure_reason": None,
            "answer": "",
        }
        path.with_name(f"{path.name}.json").write_text(json.dumps(reason, indent=2) + "\n")
    for number in range(scale.rows - scale.waiting + 1, scale.rows + 1):
        (spool.incoming / name_of(number)).write_bytes(sample.numbered(number) + pixels)


def main(argv: list[str]) -> int:
    """Make one."""
    parser = argparse.ArgumentParser(prog="bench.spool_scale", description="A spool as it is after months.")
    parser.add_argument("folder", type=Path, help="of the spool; it must not be there yet")
    parser.add_argument("--rows", type=int, default=Scale.rows)
    parser.add_argument("--quarantined", type=int, default=Scale.quarantined)
    parser.add_argument("--waiting", type=int, default=Scale.waiting)
    parser.add_argument("--days", type=float, default=Scale.days)
    options = parser.parse_args(argv)
    if options.folder.exists():
        parser.error(f"expected a folder that is not there yet, found {options.folder}")
    make(options.folder, Scale(options.rows, options.quarantined, options.waiting, options.days))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
