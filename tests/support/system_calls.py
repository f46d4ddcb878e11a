"""The system calls of a real process, seen by strace: what happened in which order, whatever the code says."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.pipeline import ROOT, Pipeline, wait_for

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs the Debian package strace")

WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2")
UNLINKS = ("unlink", "unlinkat")
SENDS = ("sendto", "sendmsg", *WRITES)
TRACED = ",".join(sorted({*WRITES, *SYNCS, *RENAMES, *UNLINKS, *SENDS}))

_WHOLE = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_UNFINISHED = "<unfinished ...>"
_RESULT = re.compile(r"= (-?\d+)[^=]*$")


@dataclass(frozen=True)
class Call:
    """A system call: the lines of the trace at which it began and ended, and what stands between its brackets."""

    name: str
    began: int
    ended: int
    arguments: str

    @property
    def file(self) -> str:
        """What its descriptor is open on, as `-y` says it: a path, or `socket:[...]`."""
        found = re.match(r"\d+<([^>]*)>", self.arguments)
        return found[1] if found is not None else ""


def calls_of(trace: str) -> list[Call]:
    """The calls that succeeded, in the order in which they began; those of other threads may overlap."""
    calls = []
    open_calls: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        if (resumed := _RESUMED.match(line)) is not None:
            began, start = open_calls.pop((resumed["pid"], resumed["name"]))
            name, arguments = resumed["name"], start + resumed["rest"]
        elif (whole := _WHOLE.match(line)) is not None:
            name, arguments, began = whole["name"], whole["rest"], number
            if arguments.endswith(_UNFINISHED):
                open_calls[whole["pid"], name] = number, arguments.removesuffix(_UNFINISHED)
                continue
        else:
            continue
        result = _RESULT.search(arguments)
        if result is not None and int(result[1]) >= 0:
            calls.append(Call(name, began, number, arguments))
    return sorted(calls, key=lambda call: call.began)


@contextlib.contextmanager
def tracing(module: str, pipeline: Pipeline, folder: Path, ready: str) -> Iterator[Callable[[], str]]:
    """Run a process under strace; gives a function that stops it and gives the trace.

    Args:
        module: receiver or uploader.
        pipeline: its spool and settings.
        folder: for the trace and the log.
        ready: what its log says when it is.
    """
    trace, log = folder / "trace", folder / f"{module}.log"
    command = [sys.executable, "-m", module, "--config", str(pipeline.ini)]
    with open(log, "wb") as output:
        strace = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "300", "-o", trace, "-e", f"trace={TRACED}", *command],
            cwd=ROOT,
            stderr=output,
        )

    def stop() -> str:
        # strace ends with the process that it started, which is its only child.
        if strace.poll() is None:
            for pid in Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split():
                os.kill(int(pid), signal.SIGTERM)
            strace.wait(30)
        return trace.read_text(errors="replace")

    try:
        wait_for(lambda: ready in log.read_text() or strace.poll() is not None)
        if ready not in log.read_text():
            pytest.fail(f"the {module} did not start under strace:\n{log.read_text()}")
        yield stop
    finally:
        if strace.poll() is None:
            stop()


def one(calls: list[Call], condition: Callable[[Call], bool], after: Call, before: Call, what: str) -> Call:
    """The first call that fulfils a condition, began after another one ended, and ended before a third began."""
    for call in calls:
        if condition(call) and call.began > after.ended and call.ended < before.began:
            return call
    raise AssertionError(f"no {what} between {after} and {before}")


def is_send(call: Call) -> bool:
    return call.name in SENDS and call.file.startswith(("socket:", "TCP"))
