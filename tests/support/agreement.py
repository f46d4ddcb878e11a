"""Whether the folders of a spool and its ledger say the same, and whether anything that was acknowledged is lost.

Asked of a spool at rest: nothing is being received or delivered, and whatever was killed has been started again.
Independent of the code it judges: it reads the folders and the SQLite file by itself.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.spool import Spool

_LAST_EVENT = {
    "incoming": {"received", "adopted", "attempt", "released"},
    "sent": {"sent"},
    "quarantine": {"quarantined"},
    "removed": {"removed"},
}


def disagreements(spool: Spool) -> list[str]:
    """What does not fit together in a spool, one sentence each; empty if all is well.

    Every file in incoming/ and quarantine/ has a row that says so, of its size, and every such row has its file; each
    quarantined file has a sidecar of the row's cause, and no sidecar stands alone; staging/ holds only what a living
    receiver has claimed; no half-written or hidden file is left; the last event of each row explains its state; and
    SQLite finds its file whole.
    """
    rows, found = _rows(spool.ledger)
    found += _folder(spool.incoming, "incoming", rows)
    found += _folder(spool.quarantine.path, "quarantine", rows)
    found += [f"staging/{name} is nobody's" for name in unclaimed(spool.staging.path)]
    return sorted(found)


def unclaimed(folder: Path) -> list[str]:
    """The names of the files in staging/ that no living process has claimed."""
    # Looked up, not tried: a claim of ours, however short, would stand in the way of the receiver's.
    claimed = {
        int(line.split()[5].rpartition(":")[2])
        for line in Path("/proc/locks").read_text().splitlines()
        if " FLOCK " in line and "->" not in line
    }
    names = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat(follow_symlinks=False).st_ino not in claimed:
                names.append(path.name)
    return sorted(names)


def lost(acknowledged: Mapping[str, str], spool: Spool, archive: Path) -> list[str]:
    """Which acknowledged instances are nowhere, or nowhere with the bytes that were sent.

    Args:
        acknowledged: SOP Instance UID to SHA-256 of the dataset, as it was sent.
        spool: files in incoming/ and quarantine/ count.
        archive: the folder of a sandbox: <SOP Instance UID>.dcm.
    """
    # In the order in which a file moves, so that none is missed that moves meanwhile.
    kept = _digests((spool.incoming, spool.quarantine.path))
    missing = [uid for uid, digest in acknowledged.items() if digest not in kept and not _has(archive, uid, digest)]
    return [f"{uid} was acknowledged, and its bytes are nowhere" for uid in missing]


def dataset_digest(path: Path) -> str:
    """The SHA-256 of the dataset in a Part 10 file: of what follows its file meta information (PS3.10 7.1)."""
    content = path.read_bytes()
    # Preamble, DICM, and (0002,0000) UL: the length of the rest of the file meta information.
    (length,) = struct.unpack_from("<L", content, 140)
    return hashlib.sha256(content[144 + length :]).hexdigest()


def _has(archive: Path, uid: str, digest: str) -> bool:
    try:
        return dataset_digest(archive / f"{uid}.dcm") == digest
    except FileNotFoundError:
        return False


def _digests(folders: Iterable[Path]) -> set[str]:
    digests = set()
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError, struct.error):
                if path.is_file() and path.suffix != ".json":
                    digests.add(dataset_digest(path))
    return digests


def _rows(ledger: Path) -> tuple[dict[str, sqlite3.Row], list[str]]:
    """The rows by file name, and what is wrong with them by themselves."""
    with contextlib.closing(sqlite3.connect(ledger, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        # One moment for all of it.
        connection.execute("BEGIN")
        rows = {row["file_name"]: row for row in connection.execute("SELECT * FROM instances")}
        last = dict(connection.execute("SELECT instance_id, event FROM events ORDER BY id"))
        found = [f"SQLite: {line}" for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
        found += [
            f"SQLite: a row of {row[0]} refers to nothing" for row in connection.execute("PRAGMA foreign_key_check")
        ]
    for name, row in rows.items():
        event = last.get(row["id"])
        if event not in _LAST_EVENT[row["state"]]:
            found.append(f"{name} is {row['state']} in the ledger, its last event is {event}")
    return rows, found


def _folder(folder: Path, state: str, rows: Mapping[str, sqlite3.Row]) -> list[str]:
    found = []
    files: dict[str, os.stat_result] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            files[str(path.relative_to(folder))] = status
    sidecars = {}
    if state == "quarantine":
        sidecars = {name: files.pop(name) for name in list(files) if name.endswith(".json")}
    for name, status in files.items():
        row = rows.get(name)
        if row is None or row["state"] != state:
            found.append(f"{state}/{name} is {row['state'] if row else 'unknown'} in the ledger")
        elif row["size_bytes"] != status.st_size and stat.S_ISREG(status.st_mode):
            found.append(f"{state}/{name} has {status.st_size} bytes, {row['size_bytes']} in the ledger")
        elif state == "quarantine" and (cause := _cause(folder, name)) != row["cause"]:
            found.append(f"{state}/{name}.json says {cause}, the ledger {row['cause']}")
    found += [f"{state}/{name} stands alone" for name in sidecars if name.removesuffix(".json") not in files]
    found += [
        f"{name} is {state} in the ledger, and no such file is there"
        for name, row in rows.items()
        if row["state"] == state and name not in files
    ]
    return found


def _cause(folder: Path, name: str) -> str:
    try:
        return str(json.loads((folder / f"{name}.json").read_bytes())["cause"])
    except (OSError, ValueError, KeyError) as error:
        return type(error).__name__
