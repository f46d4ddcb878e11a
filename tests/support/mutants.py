"""`python -m support.mutants [NAME …]`: break the order of the steps in a scratch copy, and see which test notices.

Each mutant is one change of the product's text. For each one the tests are run that are to catch it, up to the first
that fails. A mutant that no test catches makes the exit status 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("common", "receiver", "uploader", "sandbox", "tests", "pyproject.toml", "Procfile")

ORDER_R = "tests/integration/test_receiver_durability_order.py"
ORDER_U = "tests/integration/test_uploader_durability_order.py"
CRASH_R = "tests/integration/test_crash_receiver.py"
CRASH_U = "tests/integration/test_crash_uploader.py"
STOPPING = "tests/integration/test_receiver_stopping.py"
DESTINATION = "tests/integration/test_destination.py"
QUARANTINE = "tests/unit/common/test_quarantine.py"


@dataclass(frozen=True)
class Mutant:
    """A change of the product: in a file, `old` becomes `new`, and the tests that are to see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "the answer goes out before R2 to R5",
        "receiver/transfer.py",
        "                    self._store.commit(reception)\n",
        "                    self._finish()\n"
        "                    self._store.commit(reception)\n"
        "                    return\n",
        (CRASH_R,),
    ),
    Mutant(
        "the answer does not wait for R4 and R5",
        "receiver/intake.py",
        "            self._commits.commit(receipt, failed_flushes, expected=expected)\n",
        "            commit, arguments = self._commits.commit, (receipt, failed_flushes)\n"
        "            __import__('threading').Thread(target=commit, args=arguments).start()\n",
        (CRASH_R,),
    ),
    Mutant(
        "R3 before R2: renamed, then flushed",
        "receiver/intake.py",
        "            staged.sync()\n"
        "            failed_flushes = self._commits.failed_flushes\n"
        "            staged.rename()\n",
        "            failed_flushes = self._commits.failed_flushes\n"
        "            staged.rename()\n"
        "            staged.sync()\n",
        (ORDER_R,),
    ),
    Mutant(
        "R2 left out: the file is not flushed",
        "common/staging.py",
        "        os.fsync(self._fd)\n",
        "        pass\n",
        (ORDER_R,),
    ),
    Mutant(
        "R4 left out: incoming/ is not flushed",
        "common/staging.py",
        "        self._names.sync()\n",
        "        pass\n",
        (ORDER_R,),
    ),
    Mutant(
        "R4 before R3: incoming/ is flushed before the rename",
        "receiver/intake.py",
        "            staged.rename()\n",
        "            self._spool.staging.sync_incoming()\n            staged.rename()\n"
        "            self._spool.staging.sync_incoming = lambda: None\n",
        (ORDER_R,),
    ),
    Mutant(
        "R5 before R4: the row is committed before incoming/ is flushed",
        "receiver/group_commit.py",
        "        try:\n            self._staging.sync_incoming()\n",
        "        self._ledger.received(*(each.receipt for each in group))\n"
        "        try:\n            self._staging.sync_incoming()\n",
        (CRASH_R,),
    ),
    Mutant(
        "the claim is dropped before R5",
        "receiver/intake.py",
        "            staged.rename()\n",
        "            staged.rename()\n            staged.close()\n",
        (CRASH_R,),
    ),
    Mutant(
        "a row that is refused is acknowledged",
        "receiver/group_commit.py",
        "        if mine.error is not None:\n            raise mine.error\n",
        "",
        (CRASH_R,),
    ),
    Mutant(
        "those who wait are acknowledged when their leader begins",
        "receiver/group_commit.py",
        "        if not mine.leads:\n            mine.wake.acquire()\n",
        "        if not mine.leads:\n            return\n",
        (ORDER_R, "tests/unit/receiver/test_group_commit.py"),
    ),
    Mutant(
        "nothing is swept from staging/ at the start",
        "receiver/__main__.py",
        "if swept := spool.staging.sweep():",
        "if swept := 0:",
        (CRASH_R,),
    ),
    Mutant(
        "what a living receiver has claimed is swept from staging/",
        "common/staging.py",
        "                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "                        os.unlink(entry.path)\n",
        "                        os.unlink(entry.path)\n",
        (STOPPING,),
    ),
    Mutant(
        "the probes of a dead process stay",
        "common/spool.py",
        "                    left.unlink(missing_ok=True)\n",
        "                    pass\n",
        (CRASH_R,),
    ),
    Mutant(
        "the scan does not bring in a file without a row",
        "uploader/reconciling.py",
        "            known = owed.get(ledger_name(one.name))\n",
        "            known = owed.get(ledger_name(one.name))\n"
        "            if known is None and len(one.name) == 36:\n                continue\n",
        ("tests/unit/uploader/test_reconciling.py",),
    ),
    Mutant(
        "a file whose row says sent is deleted, not sent again",
        "uploader/taking.py",
        "        try:\n            event = self._ledger.adopt(claim.name, instance, claim.size_bytes)\n",
        "        old = self._ledger.rows([claim.name]).get(claim.name)\n"
        "        if old is not None and old.state is State.SENT:\n"
        "            claim.delete()\n"
        "            return NotTaken(claim.name, gone=True, claim=claim)\n"
        "        try:\n            event = self._ledger.adopt(claim.name, instance, claim.size_bytes)\n",
        (CRASH_U, "tests/integration/test_dropped_files.py", "tests/unit/uploader"),
    ),
    Mutant(
        "files are claimed without a lock",
        "common/spool.py",
        "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n            status = os.fstat(fd)\n",
        "            status = os.fstat(fd)\n",
        (DESTINATION,),
    ),
    Mutant(
        "U5 before U2: the files are deleted before they are sent",
        "uploader/delivery.py",
        "                answer = self._client.store([one.claim for one in batch], tries=tries)\n",
        "                [one.claim.delete() for one in batch]\n"
        "                answer = self._client.store([one.claim for one in batch], tries=tries)\n",
        (CRASH_U,),
    ),
    Mutant(
        "U4 before U3: the rows are sent before the answer is there",
        "uploader/delivery.py",
        "                answer = self._client.store([one.claim for one in batch], tries=tries)\n",
        "                from common.records import Outcome\n"
        "                self._settling._ledger.sent([Outcome(one.claim.name, 200) for one in batch])\n"
        "                answer = self._client.store([one.claim for one in batch], tries=tries)\n",
        (CRASH_U,),
    ),
    Mutant(
        "U5 before U4: deleted before the row is committed",
        "uploader/settling.py",
        "            self._record(records)\n",
        "            [one.claim.delete() for one, _ in sent]\n            self._record(records)\n",
        (CRASH_U,),
    ),
    Mutant(
        "U4 without its flush",
        "uploader/__main__.py",
        "Ledger(spool.ledger, durable=True)",
        "Ledger(spool.ledger)",
        (ORDER_U,),
    ),
    Mutant(
        "U4 without the flush of the log's name",
        "common/ledger_flush.py",
        "                sync_directory(self._database.parent)\n",
        "",
        (ORDER_U,),
    ),
    Mutant(
        "a file is deleted whatever the answer says",
        "uploader/settling.py",
        "            elif verdict.kind is Kind.SENT:\n",
        "            elif verdict.kind is not Kind.PERMANENT:\n",
        (CRASH_U,),
    ),
    Mutant(
        "U8 before U6: moved before the sidecar is written",
        "uploader/quarantining.py",
        "                slot.write_reason({**self._known(outcome, row), **reason})\n",
        "                slot.move()\n                slot.move = lambda: None\n"
        "                slot.write_reason({**self._known(outcome, row), **reason})\n",
        (CRASH_U,),
    ),
    Mutant(
        "U7 before U6: the row before the sidecar",
        "uploader/quarantining.py",
        "                slot.write_reason({**self._known(outcome, row), **reason})\n",
        "                self._ledger.quarantined(outcome, slot.name, attempts=0)\n"
        "                slot.write_reason({**self._known(outcome, row), **reason})\n",
        (CRASH_U,),
    ),
    Mutant(
        "U8 before U7: moved before the row is committed",
        "uploader/quarantining.py",
        "                try:\n                    self._ledger.quarantined(outcome",
        "                slot.move()\n                slot.move = lambda: None\n"
        "                try:\n                    self._ledger.quarantined(outcome",
        (CRASH_U,),
    ),
    Mutant(
        "U6 without the flush of the sidecar",
        "common/quarantine.py",
        "                os.fsync(fd)\n",
        "",
        (ORDER_U,),
    ),
    Mutant(
        "U6 without the flush of quarantine/",
        "common/quarantine.py",
        "            raise\n        sync_directory(self._folder)\n",
        "            raise\n",
        (ORDER_U,),
    ),
    Mutant(
        "U8 without the flush of quarantine/",
        "common/quarantine.py",
        "            sync_directory(self._folder)\n            # A folder dropped",
        "            # A folder dropped",
        (ORDER_U,),
    ),
    Mutant(
        "U8 without the flush of incoming/",
        "common/quarantine.py",
        "                sync_directory(self._incoming)\n",
        "                pass\n",
        (ORDER_U,),
    ),
    Mutant(
        "sidecars that stand alone are not swept",
        "common/quarantine.py",
        "or (stem != entry.name and self._stands_alone(stem))",
        "",
        (CRASH_U,),
    ),
    Mutant(
        "half-written sidecars are not swept",
        "common/quarantine.py",
        "if _TEMPORARY.match(entry.name) or ",
        "if ",
        (CRASH_U,),
    ),
    Mutant(
        "the sidecar of a released file stays",
        "uploader/taking.py",
        "            self._spool.quarantine.drop_reason(claim.name)\n",
        "            pass\n",
        ("tests/integration/test_dropped_files.py",),
    ),
    Mutant(
        "quarantine/ is listed while a file is on its way",
        "common/quarantine.py",
        "        with self._locked(create=False):\n"
        "            with os.scandir(self.path) as entries:\n                names",
        "        if True:\n            with os.scandir(self.path) as entries:\n                names",
        (QUARANTINE,),
    ),
)


def main(wanted: Sequence[str]) -> int:
    """Try the mutants whose names hold one of the given texts; all, if there are none."""
    missed = 0
    for mutant in MUTANTS:
        if wanted and not any(text in mutant.name for text in wanted):
            continue
        caught = try_one(mutant)
        missed += not caught
        print(f"| {mutant.name} | `{mutant.file}` | {caught or 'NOT CAUGHT'} |", flush=True)  # noqa: T201
    return 1 if missed else 0


def try_one(mutant: Mutant) -> str:
    """The first test that fails with a mutant; empty if none does."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        for entry in COPIED:
            source = ROOT / entry
            if source.is_dir():
                shutil.copytree(source, copy / entry, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / entry)
        path = copy / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.name}: expected its text once in {mutant.file}, found {text.count(mutant.old)}")
        path.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "-p", "no:cacheprovider", *mutant.tests]
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(.+?)(?: - .*)?$", run.stdout, re.MULTILINE)
    if run.returncode == 1 and failed is not None:
        return f"`{failed[1]}`"
    if run.returncode != 0:
        raise SystemExit(f"{mutant.name}: pytest ended with {run.returncode}\n{run.stdout[-3000:]}")
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
