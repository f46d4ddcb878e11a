"""DCMTK's dcmsend as the sender, timed by its own log; and the disk's share of the physical limit.

dcmsend looks at every file before it asks for an association, and that is not the receiver's time. Its log (one line
for a phase, none for an instance) says when the first instance went out and when the association was over.
"""

import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.peers import BenchError, environment, tidy

_LOG_CONFIG = """\
log4cplus.rootLogger = WARN, stderr
log4cplus.logger.dcmtk.apps.dcmsend = INFO
log4cplus.appender.stderr = log4cplus::ConsoleAppender
log4cplus.appender.stderr.logToStdErr = true
log4cplus.appender.stderr.ImmediateFlush = true
log4cplus.appender.stderr.layout = log4cplus::PatternLayout
log4cplus.appender.stderr.layout.ConversionPattern = %D{%s.%q} %m%n
"""
_BEGIN = re.compile(r"^([\d.]+) sending SOP instances", re.MULTILINE)
_END = re.compile(r"^([\d.]+) Status Summary", re.MULTILINE)
_SUCCESSES = re.compile(r"with status SUCCESS\s*: (\d+)")


@dataclass(frozen=True, slots=True)
class Sending:
    """When a dcmsend sent, in seconds of the system's clock."""

    begun: float
    ended: float


def missing() -> str | None:
    """Why dcmsend cannot be used; None if it can."""
    return None if shutil.which("dcmsend") else "dcmsend is not installed"


def dcmsend(port: int, files: list[Path], scratch: Path, *, nodelay: bool, associations: int = 1) -> float:
    """Send files, spread over so many associations at once; the seconds from the first begin to the last end.

    Raises:
        BenchError: not every file was answered with success.
    """
    sending = send(port, files, scratch, nodelay=nodelay, associations=associations)
    return sending.ended - sending.begun


def send(port: int, files: list[Path], scratch: Path, *, nodelay: bool, associations: int = 1) -> Sending:
    """The same; when it was.

    Raises:
        BenchError: not every file was answered with success.
    """
    config = scratch / "dcmsend.cfg"
    config.write_text(_LOG_CONFIG)
    shares = [files[number::associations] for number in range(associations)]
    with ThreadPoolExecutor(associations) as pool:
        sendings = list(pool.map(lambda share: _send(port, share, config, nodelay=nodelay), shares))
    return Sending(min(one.begun for one in sendings), max(one.ended for one in sendings))


def _send(port: int, files: list[Path], config: Path, *, nodelay: bool) -> Sending:
    folder = files[0].parent
    done = subprocess.run(
        ["dcmsend", "-lc", str(config), "-nuc", "127.0.0.1", str(port), *(path.name for path in files)],
        cwd=folder,
        env=environment(nodelay=nodelay),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    begun, ended = _BEGIN.search(done.stderr), _END.search(done.stderr)
    successes = _SUCCESSES.search(done.stderr)
    if begun is None or ended is None or successes is None or int(successes[1]) != len(files):
        raise BenchError(f"dcmsend did not send {len(files)} files with success: {done.stderr[-1000:]}")
    return Sending(float(begun[1]), float(ended[1]))


def write_durably(folder: Path, files: list[Path]) -> float:
    """Write the same bytes, each with fsync of the file and of the directory; the seconds, without the reading."""
    folder.mkdir(parents=True)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    seconds = 0.0
    try:
        for path in files:
            content = path.read_bytes()
            begun = time.perf_counter()
            descriptor = os.open(folder / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, content)
            os.fsync(descriptor)
            os.close(descriptor)
            os.fsync(directory)
            seconds += time.perf_counter() - begun
    finally:
        os.close(directory)
        tidy(folder)
    return seconds
