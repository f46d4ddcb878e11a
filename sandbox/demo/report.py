"""What the demo prints: its own voice, honcho's log set back behind it, and the table out of the ledger.

Colours only on a terminal, and not if NO_COLOR is set (https://no-color.org). Lines of the log are cut to the
width of the terminal: a line that it breaks in two is worse. They are whole in honcho.log.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from common.records import Row, State
from sandbox.demo.progress import Progress, Step
from sandbox.demo.stage import LogLine

_BOLD, _DIM = "1", "2"
_RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN = "31", "32", "33", "34", "35", "36"
_STEP_COLOURS = {Step.RECEIVED: _CYAN, Step.SENT: _MAGENTA, Step.CONFIRMED: _GREEN}
_STATE_COLOURS = {State.SENT: _GREEN, State.INCOMING: _YELLOW, State.QUARANTINE: _RED, State.REMOVED: _YELLOW}
_NAME_COLOURS = {"receiver": _CYAN, "uploader": _MAGENTA, "console": _BLUE, "sandbox": _YELLOW}
# honcho has said the time and the name already.
_REPEATED = re.compile(r"\S+Z (receiver|uploader|console) (?=[A-Z]+ )|sandbox: ")
_TITLES = ("Patient ID", "Modality", "Size", "State", "Settled after", "File name")
_RIGHT = (2, 4)  # columns of numbers


class Report:
    """Prints to one stream.

    Args:
        stream: standard output.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._colours = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = min(max(shutil.get_terminal_size((120, 24)).columns, 80), 120)

    def line(self, text: str = "", *styles: str) -> None:
        """Print one line."""
        print(self._styled(text, *styles), file=self._stream, flush=True)

    def heading(self, text: str) -> None:
        """Print what comes next."""
        self.line()
        self.line(text, _BOLD)

    def good(self, text: str) -> None:
        """Print that all is well."""
        self.line(text, _BOLD, _GREEN)

    def bad(self, text: str) -> None:
        """Print what went wrong."""
        self.line(text, _BOLD, _RED)

    def command(self, text: str, *, indent: str = "     ") -> None:
        """Print a command to copy, with nothing else on its line."""
        self.line(indent + self._styled(text, _CYAN))

    def log(self, line: LogLine) -> None:
        """Print a line of honcho's, behind a bar and dim."""
        text = _REPEATED.sub("", line.text, count=1)
        shown = f"  │ {line.time} {line.name:<10} {text}"
        if len(shown) > self._width:
            shown = shown[: self._width - 1] + "…"
        kind = line.name.partition(".")[0]
        self.line(shown, *((_YELLOW,) if line.serious else (_DIM, _NAME_COLOURS.get(kind, ""))))

    def step(self, step: Step, progress: Progress) -> None:
        """Print that a sample came one step further, with the time since its C-STORE began."""
        sample, row = progress.sample, progress.row
        name = short_name(row.file_name) if row is not None else ""
        told = {
            Step.RECEIVED: f"0x0000, on disk as {name}",
            Step.SENT: "named as stored by the sandbox, file deleted",
            Step.CONFIRMED: "the sandbox has the very same bytes",
        }[step]
        word = self._styled(f"{step.value:<10}", _BOLD, _STEP_COLOURS[step])
        self.line(f"{word} {sample.label:<17} {size(len(sample.part10)):>7}  {progress.steps[step]:5.2f} s  {told}")

    def table(self, rows: Sequence[Row]) -> None:
        """Print rows of the ledger."""
        cells = [_cells(row) for row in rows]
        widths = [min(max(map(len, column)), 20) for column in zip(_TITLES, *cells, strict=True)]
        # File names of our own have 36 characters; the column takes what is left of the line.
        widths[-1] = max(self._width - sum(widths[:-1]) - 2 * len(widths), len(_TITLES[-1]))
        self.line("  " + "  ".join(_aligned(_TITLES, widths)).rstrip(), _BOLD)
        for row, texts in zip(rows, cells, strict=True):
            aligned = _aligned(texts, widths)
            aligned[3] = self._styled(aligned[3], _STATE_COLOURS[row.state])
            self.line("  " + "  ".join(aligned).rstrip())

    def _styled(self, text: str, *styles: str) -> str:
        codes = ";".join(filter(None, styles))
        return f"\033[{codes}m{text}\033[0m" if self._colours and codes and text else text


def size(count: int) -> str:
    """Give a number of bytes as a person says it."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def short_name(name: str) -> str:
    """Shorten a file name of ours, 32 hexadecimal digits, to what tells it from others."""
    return f"{name[:8]}….dcm" if re.fullmatch(r"[0-9a-f]{32}\.dcm", name) else name


def _cells(row: Row) -> tuple[str, ...]:
    state = f"{row.state} ({row.cause})" if row.cause else str(row.state)
    return row.patient_id, row.modality, size(row.size_bytes), state, _settling(row), row.file_name


def _settling(row: Row) -> str:
    """Seconds from received to settled."""
    if row.settled_at is None:
        return "not settled"
    took = datetime.fromisoformat(row.settled_at) - datetime.fromisoformat(row.received_at)
    return f"{took.total_seconds():.2f} s"


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> list[str]:
    aligned = []
    for number, (text, width) in enumerate(zip(texts, widths, strict=True)):
        cut = text if len(text) <= width else text[: width - 1] + "…"
        aligned.append(cut.rjust(width) if number in _RIGHT else cut.ljust(width))
    return aligned
