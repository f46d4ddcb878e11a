"""honcho with receiver, uploader, console and sandbox: started, listened to, and ended whatever happens.

honcho has a session of its own, so that Ctrl-C reaches only the demo, which then ends honcho in order. Its output
goes to a file and not to a pipe: nobody stops because we do not read.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.demo.folder import ROOT, DemoError, Folder

_PROCESSES = 4
_START_SECONDS = 10.0  # for honcho to start all of them
_STOP_SECONDS = 15.0  # for them to end in order; each is given 3 by its settings
_GRACE_SECONDS = 3.0  # for what is left after that
_TICK_SECONDS = 0.05
_KEPT_LINES = 200

_LINE = re.compile(r"(?P<time>\d\d:\d\d:\d\d) (?P<name>\S+) *\| (?P<text>.*)")
_SERIOUS = re.compile(r"\S+ (receiver|uploader|console) (WARNING|ERROR) ")
_STARTED = re.compile(r"(?P<name>\S+) started \(pid=(?P<pid>\d+)\)")
_STOPPED = re.compile(r"(?P<name>\S+) stopped \(rc=(?P<status>-?\d+)\)")


@dataclass(frozen=True)
class LogLine:
    """One line of honcho's output: the time of day, which process (or `system`), and what it said."""

    time: str
    name: str
    text: str

    @property
    def serious(self) -> bool:
        """Whether it is a warning or an error of receiver, uploader or console."""
        return _SERIOUS.match(self.text) is not None


class Stage:
    """The processes of one demo.

    Args:
        folder: with its settings written.
        lock: the descriptor that keeps other demos out of the folder, for honcho to hold as well.
    """

    def __init__(self, folder: Folder, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._honcho: subprocess.Popen[bytes] | None = None
        self._read_to = 0
        self._running: dict[str, int] = {}
        self._lines: list[LogLine] = []
        self._started = 0
        self._first_end = ""

    def start(self) -> None:
        """Start honcho.

        Raises:
            DemoError: it cannot be started.
        """
        # A setting of the person's own pipeline must not send anything of the demo to their archive.
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("STOWGATE_", "HONCHO_")) and key not in ("PORT", "PROCFILE")
        }
        environment = kept | {
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "STOWGATE_CONFIG": str(self._folder.settings),
        }
        command = [sys.executable, "-m", "honcho", "start", "-f", str(self._folder.procfile), "-e", os.devnull]
        try:
            with self._folder.log.open("wb") as log:
                self._honcho = subprocess.Popen(  # noqa: S603  our own command
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(self._lock,),
                )
        except OSError as error:
            raise DemoError(f"expected to start honcho, found: {error.strerror}") from error

    def lines(self) -> list[LogLine]:
        """Give what was said since the last call, in whole lines."""
        try:
            with self._folder.log.open("rb") as log:
                log.seek(self._read_to)
                data = log.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        said = [self._noted(line) for line in whole.decode("utf-8", "replace").splitlines()]
        self._lines = [*self._lines, *said][-_KEPT_LINES:]
        return said

    def last_trouble(self) -> LogLine | None:
        """Give the last line at level WARNING or ERROR, if there was one lately."""
        return next((line for line in reversed(self._lines) if line.serious), None)

    def check(self) -> None:
        """Make sure that all still run. Call `lines` before it: what they say is what it knows.

        Raises:
            DemoError: one of them ended, or honcho did; with the last lines of the one that did.
        """
        if self._first_end:
            name = self._first_end.partition(" ")[0]
            last = [line.text for line in self._lines if line.name == name][-5:]
            raise DemoError("\n".join([f"expected all four to run, found that {self._first_end}", *last]))
        if self._honcho is not None and self._honcho.poll() is not None:
            last = [line.text for line in self._lines][-5:]
            raise DemoError("\n".join([f"honcho ended with status {self._honcho.returncode}", *last]))

    def stop(self, said: Callable[[LogLine], None], hurry: Callable[[], bool]) -> None:
        """End them: in order, or by force after a while or if `hurry` says so. Safe in any state.

        Args:
            said: is given each line that comes meanwhile.
            hurry: says whether the person has lost patience.
        """
        honcho = self._honcho
        if honcho is None:
            return

        def wait(over: Callable[[], bool], seconds: float, cut: Callable[[], bool] = hurry) -> None:
            deadline = time.monotonic() + seconds
            while not over() and not cut() and time.monotonic() < deadline:
                for line in self.lines():
                    said(line)
                time.sleep(_TICK_SECONDS)

        # honcho 2.0.0 stumbles over SIGTERM while it is still starting its processes; nor do we know them yet.
        wait(lambda: self._started >= _PROCESSES or honcho.poll() is not None, _START_SECONDS, cut=lambda: False)
        honcho.terminate()
        wait(lambda: honcho.poll() is not None, _STOP_SECONDS)
        for line in self.lines():
            said(line)
        # Usually nothing is left by now. honcho gives each process a session of its own.
        left = list(self._running.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                _signal_group(pid, number)
            if number is signal.SIGTERM:
                wait(lambda: not any(_signal_group(pid, 0) for pid in left), _GRACE_SECONDS)
        _signal_group(honcho.pid, signal.SIGKILL)
        honcho.wait()

    def _noted(self, text: str) -> LogLine:
        """Take apart one line, and keep account of who runs."""
        match = _LINE.fullmatch(text)
        line = LogLine(match["time"], match["name"], match["text"]) if match else LogLine("", "honcho", text)
        if line.name == "system":
            if started := _STARTED.fullmatch(line.text):
                self._running[started["name"]] = int(started["pid"])
                self._started += 1
            elif stopped := _STOPPED.fullmatch(line.text):
                self._running.pop(stopped["name"], None)
                self._first_end = self._first_end or f"{stopped['name']} ended with status {stopped['status']}"
        return line


def _signal_group(pid: int, number: int) -> bool:
    """Send a signal to a process group; tell whether it is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return True
    return False
