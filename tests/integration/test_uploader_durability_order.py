"""The order that the guarantee demands of an uploader, seen from the outside: its system calls (U4 to U8)."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from common.records import Cause
from sandbox.running import RunningSandbox
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance
from support.system_calls import RENAMES, SYNCS, WRITES, Call, calls_of, is_send, needs_strace, one, tracing


@needs_strace
def test_a_file_leaves_incoming_after_what_says_so_is_durable(
    make_pipeline: Callable[..., Pipeline], sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Sent: row, flush, unlink. Quarantine: sidecar, its name, row, each flushed; then rename, and both folders."""
    pipeline = make_pipeline(sandbox.url)
    pipeline.spool.prepare()
    refused = make_instance(tmp_path / "refused.dcm")
    sandbox.add_rule(f"uid={refused},fail=0xA900")
    for number in range(3):
        make_instance(tmp_path / f"sent{number}.dcm")
    with tracing("uploader", pipeline, tmp_path, "delivering") as stop:
        # One by one: for each file a request and a transaction of its own.
        for name in ("sent0.dcm", "sent1.dcm", "refused.dcm", "sent2.dcm"):
            shutil.copy(tmp_path / name, pipeline.spool.incoming)
            pipeline.wait_empty()
        wait_for(lambda: pipeline.quarantined() == {"refused.dcm"})
        wait_for(lambda: any(row.cause is Cause.REFUSED for row in pipeline.rows()))
        calls = calls_of(stop())

    spool = str(pipeline.spool.directory)
    wal = f"{pipeline.spool.ledger}-wal"
    log_made = next(call for call in calls if call.name in WRITES and call.file == wal)
    for number in range(3):
        # A file dropped by hand leaves its name first, and is deleted under another.
        deleted = named(calls, RENAMES, f"{pipeline.spool.incoming}/sent{number}.dcm")
        recorded(calls, wal, the_request_before(calls, deleted), deleted)
        # A log whose name is lost is a log that was not flushed.
        one(calls, lambda call: call.file == spool and call.name == "fsync", log_made, deleted, "fsync of the spool")

    quarantine = pipeline.spool.quarantine.path
    moved = named(calls, RENAMES, f"{quarantine}/refused.dcm")
    reason = named(calls, RENAMES, f"{quarantine}/refused.dcm.json")
    temporary = re.search(r'"([^"]+)"', reason.arguments)
    assert temporary is not None
    written = next(call for call in calls if call.name in WRITES and call.file == temporary[1])
    one(calls, lambda call: call.name in SYNCS and call.file == temporary[1], written, reason, "fsync of the sidecar")
    reason_synced = one(
        calls, lambda call: call.name == "fsync" and call.file == str(quarantine), reason, moved, "fsync of quarantine/"
    )
    recorded(calls, wal, reason_synced, moved)
    for folder in (quarantine, pipeline.spool.incoming):
        assert any(call.name == "fsync" and call.file == str(folder) and call.began > moved.ended for call in calls)


def named(calls: list[Call], names: tuple[str, ...], path: str) -> Call:
    """The one call of these names about a path."""
    (found,) = (call for call in calls if call.name in names and f'"{path}"' in call.arguments)
    return found


def the_request_before(calls: list[Call], deleted: Call) -> Call:
    """The last bytes to the archive before a file was deleted."""
    return [call for call in calls if is_send(call) and call.ended < deleted.began][-1]


def recorded(calls: list[Call], wal: str, after: Call, before: Call) -> None:
    """A commit is written to the log, and the log is flushed, between two calls."""
    written = one(calls, lambda call: call.name in WRITES and call.file == wal, after, before, "ledger commit")
    one(calls, lambda call: call.name in SYNCS and call.file == wal, written, before, "flush of the ledger")
