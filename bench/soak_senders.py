"""Senders of a soak: associations at a steady rate, which send again what was not acknowledged, as modalities do.

Beside them dcmsend sends a folder now and then, if it is installed.
"""

import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import samples, scu, senders
from bench.peers import BenchError
from bench.samples import Sample
from bench.soak_report import Answer

_SENDERS = 4
_PER_ASSOCIATION = 50
_EVERY_LARGE = 50  # one instance in so many is a CT of 525 kB, the others have 15 kB
_RETRY_SECONDS = 0.25
_FOLDER = 20  # files for a dcmsend
_FOLDER_EVERY_SECONDS = 15.0
_CONTEXTS = 4


def sample_of(number: int) -> Sample:
    """What the n-th instance is like."""
    return samples.SMALL if number % _EVERY_LARGE else samples.CT


class Senders:
    """Send until they are stopped.

    Args:
        port: of the receivers.
        folder: for the files of dcmsend.
    """

    def __init__(self, port: int, folder: Path) -> None:
        self._port, self._folder = port, folder
        self._begun = 0.0
        self._library = samples.Library(folder)
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.acknowledged: set[int] = set()
        self.answers: list[Answer] = []
        self.failures = 0
        self.fault = ""
        self.coming = 1
        """A number that is soon to be sent, for who wants to refuse it."""

    def begin(self) -> float:
        """Count time from now on; what `time.monotonic` says."""
        self._begun = time.monotonic()
        return self._begun

    def start(self, rate: float | None) -> None:
        """Send at so many instances a second in all; None for as fast as they are answered."""
        self._over.clear()
        interval = None if rate is None else _SENDERS / rate
        self._threads = [
            threading.Thread(target=self._send, args=(interval,), name=f"sender-{number}") for number in range(_SENDERS)
        ]
        if rate is not None and senders.missing() is None:
            self._threads.append(threading.Thread(target=self._send_folders, name="dcmsend"))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, with nothing left that was begun and not acknowledged."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, interval: float | None) -> None:
        numbers = self._paced(interval)
        number = next(numbers, None)
        while number is not None:
            try:
                with scu.Association(self._port, scu.proposal(samples.CT.sop_class_uid, _CONTEXTS)) as association:
                    for _ in range(_PER_ASSOCIATION):
                        self._store(association, number)
                        number = next(numbers, None)
                        if number is None:
                            break
                    association.release()
            except (OSError, BenchError):
                with self._lock:
                    self.failures += 1
                time.sleep(_RETRY_SECONDS)

    def _store(self, association: scu.Association, number: int) -> None:
        message = scu.message(sample_of(number), number, association.max_pdu)
        fault, begun = self.fault, time.monotonic()
        association.store(message)
        ended = time.monotonic()
        with self._lock:
            self.acknowledged.add(number)
            self.answers.append(Answer(ended - self._begun, ended - begun, fault or self.fault))

    def _paced(self, interval: float | None) -> Iterator[int]:
        due = time.monotonic()
        while not self._over.is_set():
            if interval is not None:
                # What was missed while nobody answered is not sent all at once afterwards.
                due = max(due + interval, time.monotonic() - 1)
                self._over.wait(max(0.0, due - time.monotonic()))
            with self._lock:
                number = next(self._numbers)
                self.coming = number + _SENDERS
            yield number

    def _send_folders(self) -> None:
        while not self._over.wait(_FOLDER_EVERY_SECONDS):
            with self._lock:
                numbers = [next(self._numbers) for _ in range(_FOLDER)]
            folder = self._folder / f"folder-{numbers[0]}"
            folder.mkdir(parents=True)
            files = [folder / f"{number}.dcm" for number in numbers]
            for number, file in zip(numbers, files, strict=True):
                self._library.write(file, sample_of(number), number)
            while not self._folder_is_sent(files):
                time.sleep(_RETRY_SECONDS)
            with self._lock:
                self.acknowledged.update(numbers)
            shutil.rmtree(folder, ignore_errors=True)

    def _folder_is_sent(self, files: list[Path]) -> bool:
        try:
            senders.dcmsend(self._port, files, self._folder, nodelay=True)
        except BenchError:
            with self._lock:
                self.failures += 1
            return False
        return True
