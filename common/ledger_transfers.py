"""The table `transfers` of the ledger: requests that take long, while they are under way."""

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta

from common.records import State, Transfer, ledger_name, utc_text

_BELIEVED_SECONDS = 60  # so long after it was last seen a transfer is believed to be under way


def renew_transfers(
    connection: sqlite3.Connection, transfers: Iterable[Transfer], ended: Iterable[str], now: datetime
) -> None:
    """Write down how far requests are; forget those that have ended, that are settled, and that nobody renews.

    Args:
        connection: inside a transaction.
        transfers: those under way.
        ended: the names of the first files of those that are over.
        now: an aware datetime.
    """
    connection.executemany(
        "DELETE FROM transfers WHERE instance_id = (SELECT id FROM instances WHERE file_name = ?)",
        [(ledger_name(name),) for name in ended],
    )
    connection.execute(
        "DELETE FROM transfers WHERE seen_at < ?"
        " OR instance_id IN (SELECT instance_id FROM transfers JOIN instances ON instances.id = instance_id"
        " WHERE state <> ?)",
        (utc_text(now - timedelta(seconds=_BELIEVED_SECONDS)), State.INCOMING),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO transfers"
        " (instance_id, instances, size_bytes, sent_bytes, begun_at, moved_at, seen_at)"
        " SELECT id, ?, ?, ?, ?, ?, ? FROM instances WHERE file_name = ?",
        [
            (
                one.instances,
                one.size_bytes,
                one.sent_bytes,
                utc_text(one.begun_at),
                utc_text(one.moved_at),
                utc_text(now),
                ledger_name(one.file_name),
            )
            for one in transfers
        ],
    )


def transfers_under_way(connection: sqlite3.Connection, now: datetime) -> dict[str, Transfer]:
    """The requests under way, by the name of their first file. One that nobody has renewed for a minute is left out."""
    oldest = utc_text(now - timedelta(seconds=_BELIEVED_SECONDS))
    return {
        name: Transfer(name, instances, size, sent, datetime.fromisoformat(begun_at), datetime.fromisoformat(moved_at))
        for name, instances, size, sent, begun_at, moved_at in connection.execute(
            "SELECT file_name, instances, transfers.size_bytes, sent_bytes, begun_at, moved_at"
            " FROM transfers JOIN instances ON instances.id = instance_id WHERE seen_at >= ? ORDER BY begun_at",
            (oldest,),
        )
    }
