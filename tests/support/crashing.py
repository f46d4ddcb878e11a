"""`python -m support.crashing <file> receiver|uploader --config …`: the real process, killing itself at a named point.

The product has no fault points and pays nothing for them: they are put round its functions here, by
`support.crash_points`, before its own `__main__` is run. A point is armed when `<file>` exists and holds its name; the
process that comes to it first removes the file and sends itself SIGKILL.
"""

import contextlib
import functools
import os
import runpy
import signal
import sqlite3
import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Choice = str | Callable[..., str | None]
"""A point, or a function that chooses one by the arguments of the call; none where it gives nothing."""


class Crash:
    """Kills this process at the armed point."""

    def __init__(self, armed: Path) -> None:
        self._armed = armed
        self._local = threading.local()

    def is_armed(self, point: str) -> bool:
        """Tell whether this point is the one."""
        try:
            return self._armed.read_text() == point
        except FileNotFoundError:
            return False

    def here(self, point: str) -> None:
        """Die, if this is the point."""
        if self.is_armed(point):
            # Of several processes and threads the first one dies; the file is there for one.
            with contextlib.suppress(FileNotFoundError):
                self._armed.unlink()
                os.kill(os.getpid(), signal.SIGKILL)

    def inside(self, name: str) -> bool:
        """Tell whether this thread is in a function that `around` was told of: `Class.function`, `module.function`."""
        return name in self._names

    @property
    def _names(self) -> list[str]:
        names: list[str] | None = getattr(self._local, "names", None)
        if names is None:
            names = self._local.names = []
        return names

    def around(self, owner: Any, name: str, *, before: Choice = "", after: Choice = "") -> None:
        """Put points before and after a function."""
        function = getattr(owner, name)
        label = f"{owner.__name__.rpartition('.')[2]}.{name}"

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._names.append(label)
            try:
                self._choose(before, arguments)
                result = function(*arguments, **named)
                self._choose(after, arguments)
            finally:
                self._names.pop()
            return result

        setattr(owner, name, wrapped)

    def around_its(self, user: types.ModuleType, module: str, name: str, **points: Choice) -> None:
        """Put points round a function of a module that many use, for one of its users: `os` in `common.staging`."""
        used = getattr(user, module)
        if isinstance(used, types.ModuleType):
            used = types.SimpleNamespace(**vars(used))
            setattr(user, module, used)
        self.around(used, name, **points)

    def around_commit(self, points: Mapping[str, tuple[str, str]]) -> None:
        """Put points before and after the COMMIT of functions, named as for `inside`."""
        crash = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
                here = next((pair for name, pair in points.items() if crash.inside(name)), None)
                if statement != "COMMIT" or here is None:
                    return super().execute(statement, *arguments)
                crash.here(here[0])
                cursor = super().execute(statement, *arguments)
                crash.here(here[1])
                return cursor

        sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]

    def _choose(self, choice: Choice, arguments: tuple[Any, ...]) -> None:
        point = choice(*arguments) if callable(choice) else choice
        if point:
            self.here(point)


def main(arguments: list[str]) -> None:
    """Put the points in and run the process."""
    from support import crash_points  # noqa: PLC0415 - it needs what is above

    armed, module, *rest = arguments
    {"receiver": crash_points.of_receiver, "uploader": crash_points.of_uploader}[module](Crash(Path(armed)))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
