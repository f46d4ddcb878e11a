"""Where a receiver and an uploader can be killed: every numbered step of docs/design.md, and what lies inside them.

A name begins with the number of its step; the rest says what has happened when the process dies there.
"""

from pathlib import Path
from typing import Any

from common import ledger_database, quarantine, spool, staging
from common.errors import LedgerError
from common.ledger import Ledger
from support.crashing import Crash

SCHEMA = ("start: the schema is not committed", "start: the schema is committed")
START = (
    "start: the probe is claimed in incoming/",
    "start: the probe is in staging/",
    "start: the probe is in quarantine/",
    "start: ledger.db is empty",
    *SCHEMA,
)
RECEIVER = (
    "start: staging/ is swept in part",
    "R1 the file is there, unclaimed",
    "R1 the file is claimed",
    "R1 half the dataset is written",
    "R1 the dataset is written",
    "R2 the file is flushed",
    "R3 the file is renamed",
    "R4 incoming/ is flushed",
    "R5 the row is not committed",
    "R5 the row is committed",
    "R5 the row was refused, the file is not withdrawn",
    "R6 the claim is dropped",
    "R6 half the answer is out",
    "R6 the answer is out",
    "R6 the next file is made ready",
)
UPLOADER = (
    "start: quarantine/ is swept in part",
    "U1 the file is claimed",
    "U1 the adoption is not committed",
    "U1 the adoption is committed, not flushed",
    "U1 the adoption is flushed",
    "U1 the release is recorded, the sidecar is there",
    "U2 the request is begun",
    "U2 half the request is out",
    "U2 the request is out",
    "U3 the answer has come",
    "U3 the answer is read",
    "U3 the verdict is made",
    "U3 the attempt is not committed",
    "U3 the attempt is committed",
    "U4 the row is not committed",
    "U4 the row is committed, not flushed",
    "U4 the row is flushed",
    "U5 one of several files is deleted",
    "U5 the files are deleted",
    "U6 the sidecar is not flushed",
    "U6 the sidecar has another name",
    "U6 the sidecar is renamed",
    "U6 the sidecar is durable",
    "U7 the row is not committed",
    "U7 the row is committed, not flushed",
    "U7 the row is flushed",
    "U8 the file is moved",
    "U8 quarantine/ is flushed",
    "U8 both folders are flushed",
    "removed: the row is not committed",
    "removed: the row is committed",
)
_REFUSED = "R5 the row was refused, the file is not withdrawn"
_HALF = 30_000  # bytes, of which a file is written at once; a test sends more


def of_receiver(crash: Crash) -> None:
    """Put the points of START and RECEIVER in."""
    from receiver.files_ahead import FilesAhead  # noqa: PLC0415 - the uploader has none of this
    from receiver.intake import Reception  # noqa: PLC0415
    from receiver.transfer import Transfer  # noqa: PLC0415

    _of_start(crash)
    crash.around(staging.Staging, "sweep")
    crash.around_its(
        staging,
        "os",
        "unlink",
        after=lambda _: "start: staging/ is swept in part" if crash.inside("Staging.sweep") else None,
    )
    crash.around_its(
        staging,
        "fcntl",
        "flock",
        before=lambda *_: "R1 the file is there, unclaimed" if crash.inside("Staging.open") else None,
    )
    crash.around(staging.Staging, "open", after="R1 the file is claimed")
    staging._BLOCK = _HALF
    crash.around(staging.Staged, "_put", after="R1 half the dataset is written")
    crash.around(Reception, "commit", before="R1 the dataset is written")
    crash.around(staging.Staged, "sync", after="R2 the file is flushed")
    crash.around(staging.Staged, "rename", after="R3 the file is renamed")
    crash.around(staging.Staging, "sync_incoming", after="R4 incoming/ is flushed")
    received = Ledger.received

    def refusing(ledger: Ledger, *receipts: Any) -> None:
        if crash.is_armed(_REFUSED):
            raise LedgerError("refused by a test")
        received(ledger, *receipts)

    Ledger.received = refusing  # type: ignore[method-assign]
    crash.around(Ledger, "received")
    crash.around(staging.Staged, "withdraw", before=_REFUSED)
    crash.around(staging.Staged, "close", after="R6 the claim is dropped")
    send = Transfer.send

    def sending(transfer: Transfer, data: bytes) -> None:
        if data[0] != 4:
            send(transfer, data)
            return
        if crash.is_armed("R6 half the answer is out"):
            send(transfer, data[: len(data) // 2])
            crash.here("R6 half the answer is out")
        send(transfer, data)
        crash.here("R6 the answer is out")

    Transfer.send = sending  # type: ignore[method-assign]
    crash.around(FilesAhead, "restock", after="R6 the next file is made ready")
    crash.around_commit(
        {
            "ledger_database.migrate": SCHEMA,
            "Ledger.received": ("R5 the row is not committed", "R5 the row is committed"),
        }
    )


def of_uploader(crash: Crash) -> None:
    """Put the points of START and UPLOADER in."""
    from uploader import delivery  # noqa: PLC0415 - the receiver has none of this
    from uploader.multipart import Body  # noqa: PLC0415
    from uploader.settling import Settling  # noqa: PLC0415
    from uploader.stow import StowClient  # noqa: PLC0415

    _of_start(crash)
    crash.around(quarantine.Quarantine, "sweep")
    crash.around_its(
        quarantine,
        "os",
        "unlink",
        after=lambda _: "start: quarantine/ is swept in part" if crash.inside("Quarantine.sweep") else None,
    )
    crash.around(spool.Spool, "claim", after="U1 the file is claimed")
    crash.around(Ledger, "adopt", after="U1 the adoption is flushed")
    crash.around(quarantine.Quarantine, "drop_reason", before="U1 the release is recorded, the sidecar is there")
    crash.around(Body, "read", before=_of_request)
    crash.around(StowClient, "_answer", before="U3 the answer has come")
    crash.around(StowClient, "store", after="U3 the answer is read")
    crash.around(delivery, "judge", after="U3 the verdict is made")
    crash.around(Ledger, "retried")
    crash.around(Ledger, "sent", after="U4 the row is flushed")
    crash.around(spool.Claim, "delete", after="U5 one of several files is deleted")
    crash.around(Settling, "_settle_sent", after="U5 the files are deleted")
    crash.around_its(quarantine, "os", "fsync", before="U6 the sidecar is not flushed")
    crash.around_its(
        quarantine,
        "os",
        "rename",
        before=lambda _, to: "U6 the sidecar has another name" if to.suffix == ".json" else None,
        after=lambda _, to: "U6 the sidecar is renamed" if to.suffix == ".json" else "U8 the file is moved",
    )
    crash.around(quarantine.QuarantineSlot, "write_reason", after="U6 the sidecar is durable")
    crash.around(Ledger, "quarantined", after="U7 the row is flushed")
    crash.around(
        quarantine,
        "sync_directory",
        after=lambda _: "U8 quarantine/ is flushed" if crash.inside("QuarantineSlot.move") else None,
    )
    crash.around(quarantine.QuarantineSlot, "move", after="U8 both folders are flushed")
    crash.around(Ledger, "removed")
    crash.around_commit(
        {
            "ledger_database.migrate": SCHEMA,
            "Ledger.adopt": ("U1 the adoption is not committed", "U1 the adoption is committed, not flushed"),
            "Ledger.retried": ("U3 the attempt is not committed", "U3 the attempt is committed"),
            "Ledger.sent": ("U4 the row is not committed", "U4 the row is committed, not flushed"),
            "Ledger.quarantined": ("U7 the row is not committed", "U7 the row is committed, not flushed"),
            "Ledger.removed": ("removed: the row is not committed", "removed: the row is committed"),
        }
    )


def _of_start(crash: Crash) -> None:
    crash.around_its(spool, "fcntl", "flock", after=lambda _, how: _of_probe(crash, how, spool.fcntl.LOCK_NB))
    rename = Path.rename

    def renaming(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        crash.here(f"start: the probe is in {target.parent.name}/")
        return moved

    Path.rename = renaming  # type: ignore[method-assign, assignment]
    crash.around(spool.Spool, "prepare")
    crash.around(ledger_database.Database, "_create", after="start: ledger.db is empty")
    crash.around(ledger_database, "migrate")


def _of_probe(crash: Crash, how: int, without_waiting: int) -> str | None:
    return START[0] if crash.inside("Spool.prepare") and how & without_waiting else None


def _of_request(body: Any, *_: int) -> str:
    if body._sent == 0:
        return "U2 the request is begun"
    return "U2 half the request is out" if body._sent < len(body) else "U2 the request is out"
