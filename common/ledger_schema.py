"""The schema of the ledger: schema.sql and the migrations beside it, counted by `user_version`."""

import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from common.errors import LedgerVersionError

# The script at index N brings version N to N + 1.
MIGRATIONS = ("schema.sql", "schema-2.sql")
SCHEMA_VERSION = len(MIGRATIONS)


def before_first_table(connection: sqlite3.Connection) -> None:
    """Settings of a new file that cannot be made any more once something is in it; an older file is as it was.

    Pages that are free can be given back in steps then (common.ledger_retention). Setting it writes, even what is set
    already: that would make each opening wait for other writers, and fail on a full disk.
    """
    if version_of(connection) == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to SCHEMA_VERSION, in one transaction that other processes wait for."""
    if version_of(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)
        check_version(version, path)
        for script in MIGRATIONS[version:]:
            for statement in _statements(resources.files("common").joinpath(script).read_text("utf-8")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version_of(connection: sqlite3.Connection) -> int:
    """The version that a ledger says it has; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def check_version(version: int, path: Path) -> None:
    """Raise LedgerVersionError for a version that we do not know."""
    if version > SCHEMA_VERSION:
        raise LedgerVersionError(
            f"expected {path.name} of version {SCHEMA_VERSION} or older, found version {version}: "
            "it was written by a newer Stowgate"
        )
