"""Our uploader as it is measured: a spool with files that wait, the process, and when it began and ended its work.

It begins when it says that it delivers, with its imports behind it, and ends with the last deletion: the time of the
last change of incoming/, which the kernel keeps. So nothing watches it while it works but a look at the folder four
times a second.
"""

import configparser
import os
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian

from bench.measuring import Bench
from bench.peers import BenchError, Peer
from bench.samples import Sample, uid
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender
from common.spool import Spool

_LOOK_SECONDS = 0.25
_STUCK_SECONDS = 60.0
_ROWS = 1000
_SENDER = Sender("BENCH", "STOWGATE", "127.0.0.1")


def fill(bench: Bench, spool_directory: Path, sample: Sample, count: int) -> None:
    """Have so many instances wait in incoming/, as a receiver leaves them: its names, whole, with their rows.

    They are files of their own, not links to the library's: deleting them is part of what is measured.
    """
    spool = Spool(spool_directory)
    spool.prepare()
    ledger = Ledger(spool.ledger)
    try:
        for begin in range(1, count + 1, _ROWS):
            receipts = []
            for number in range(begin, min(begin + _ROWS, count + 1)):
                name = f"{uuid.uuid4().hex}.dcm"
                bench.library.write(spool.incoming / name, sample, number)
                instance = Instance(
                    sop_class_uid=sample.sop_class_uid,
                    sop_instance_uid=uid(number),
                    transfer_syntax_uid=ExplicitVRLittleEndian,
                )
                receipts.append(Receipt(name, instance, _SENDER, sample.file_bytes))
            ledger.received(*receipts)
    finally:
        ledger.close()


class Uploader(Peer):
    """Our uploader with its defaults.

    Args:
        folder: for the log, and for the spool if that is nowhere else.
        url: root of the DICOMweb service that it delivers to.
        spool: the spool directory.
        incoming: the folder of the files, if it is another one.
        settings: of the section [uploader], beside the defaults.
        processes: how many share the files.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        spool: Path | None = None,
        incoming: Path | None = None,
        settings: Mapping[str, object] | None = None,
        processes: int = 1,
    ) -> None:
        super().__init__(folder, nodelay=False, processes=processes)
        self.spool = spool or folder / "spool"
        self.incoming = incoming or self.spool / "incoming"
        self._url = url
        self._settings = settings or {}

    def command(self) -> list[str]:
        """How it is started."""
        parser = configparser.ConfigParser(interpolation=None)
        parser["spool"] = {"directory": str(self.spool), "min_free": "1 MB"}
        parser["destination"] = {"url": self._url}
        parser["uploader"] = {key: str(value) for key, value in self._settings.items()}
        with open(self.folder / "pipeline.ini", "w") as file:
            parser.write(file)
        return [sys.executable, "-m", "uploader", "--config", str(self.folder / "pipeline.ini")]

    def is_ready(self) -> bool:
        """Tell whether it has said that it delivers."""
        return self._begun_line() is not None

    def begun(self) -> float:
        """When it said so, seconds of the system's clock."""
        return moment_of(self._begun_line() or "")

    def stored(self) -> int:
        """Files that wait."""
        with os.scandir(self.incoming) as entries:
            return sum(1 for entry in entries if not entry.name.startswith("."))

    def wait_until_empty(self) -> float:
        """Wait until all that waited is deleted; when the last deletion was, seconds of the system's clock.

        Raises:
            BenchError: nothing has been deleted for a minute.
        """
        while True:
            with os.scandir(self.incoming) as entries:
                empty = next(entries, None) is None
            changed = os.stat(self.incoming).st_mtime
            if empty:
                return changed
            if time.time() - changed > _STUCK_SECONDS:
                stuck = f"{self.stored()} files wait, and nothing was delivered for {_STUCK_SECONDS:.0f} s"
                raise BenchError(f"{stuck}: {self.log()[-500:]}")
            time.sleep(_LOOK_SECONDS)

    def _begun_line(self) -> str | None:
        return next((line for line in self.log().splitlines() if " uploader INFO delivering " in line), None)


class LeastUploader(Uploader):
    """What does the least that an uploader must do, in four threads (`bench.least_sender`)."""

    def command(self) -> list[str]:
        """How it is started."""
        return [sys.executable, "-m", "bench.least_sender", self._url, str(self.incoming)]

    def is_ready(self) -> bool:
        """Tell whether it has said when it began."""
        return self.log().endswith("\n")

    def begun(self) -> float:
        """When it said so, seconds of the system's clock."""
        return float(self.log().splitlines()[0])


def moment_of(line: str) -> float:
    """The time at the begin of a line of a log, seconds of the system's clock."""
    return datetime.fromisoformat(line.partition(" ")[0]).timestamp()
