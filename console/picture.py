"""A picture of one frame of a file, drawn on demand by a child process, and kept nowhere.

The decoders are native code, and the files come from anywhere: one that crashes, loops, or fills memory does so in a
child that has limits for all of it (`console.picture_worker`), gets an open file and a number, and gives back a PNG.
Nothing of the environment goes to it, so no secret does.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from common.errors import StowgateError
from console.files import open_regular, why_not

SECONDS = 10.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
_AT_A_TIME = 2
_CHUNK = 64 * 1024
_MAX_TEXT = 300
_PNG = b"\x89PNG\r\n\x1a\n"
_ROOT = Path(__file__).resolve().parents[1]
_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")

_places = threading.BoundedSemaphore(_AT_A_TIME)


class NoPictureError(StowgateError):
    """There is no picture of it. The text says why, for a signed-in person: it may quote what the file says."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture.

    Attributes:
        png: its bytes.
        frames: how many frames the file has.
    """

    png: bytes
    frames: int


def render(path: Path, frame: int = 1, *, seconds: float = SECONDS) -> Picture:
    """Draw one frame.

    Args:
        path: of a DICOM file; nothing else is followed or waited for.
        frame: its number, counted from 1 as DICOM does.
        seconds: it has so much time to be drawn.

    Raises:
        NoPictureError: it has no picture, or none that is drawn here.
    """
    if not _places.acquire(timeout=seconds):
        raise NoPictureError("too many pictures are asked for; ask again")
    try:
        return _picture(_drawn(path, frame, seconds))
    finally:
        _places.release()


def _drawn(path: Path, frame: int, seconds: float) -> bytes:
    """What the child answered."""
    try:
        fd = open_regular(path)
    except (OSError, ValueError) as error:
        raise NoPictureError(why_not(error) if isinstance(error, OSError) else "it has no such name") from error
    try:
        child = subprocess.Popen(  # noqa: S603 - ourselves, and a number
            [sys.executable, "-B", "-m", "console.picture_worker", str(frame)],
            stdin=fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
    except OSError as error:
        raise NoPictureError(f"no process could be started to draw it ({error.strerror})") from error
    finally:
        os.close(fd)
    try:
        return _answer(child, time.monotonic() + seconds, seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _answer(child: "subprocess.Popen[bytes]", deadline: float, seconds: float) -> bytes:
    """All that a child says until it closes its end, in time and not too much."""
    late = NoPictureError(f"it could not be drawn within {seconds:g} s")
    pipe = child.stdout.fileno() if child.stdout is not None else -1
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    answer = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise late
        chunk = os.read(pipe, _CHUNK)
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise NoPictureError("its picture is larger than any should be")
        if not chunk:
            break
    if answer:
        return bytes(answer)
    try:
        status = child.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        raise late from None
    if -status in {signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM}:
        raise late
    raise NoPictureError("its decoder crashed on it")


def _picture(answer: bytes) -> Picture:
    head, _, png = answer.partition(b"\n")
    try:
        said = json.loads(head)
        if "no" in said:
            raise NoPictureError(_cleaned(str(said["no"])))
        frames = int(said["frames"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoPictureError("its decoder crashed on it") from error
    if not png.startswith(_PNG):
        raise NoPictureError("its decoder crashed on it")
    return Picture(png, frames)


def _cleaned(text: str) -> str:
    """One line of text, not too long."""
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
