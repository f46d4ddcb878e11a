"""Draws one frame: `python -m console.picture_worker FRAME`, with the open file as standard input.

`console.picture` starts it. The answer on standard output is a line of JSON, {"frames": n} or {"no": why not}, and the
PNG behind the former. Decoders are native code that reads what a stranger sent. So before one is called this process
gives up what it does not need: memory, time, writing to files, and opening anything at all. It knows no path and no
setting.
"""

import contextlib
import io
import json
import logging
import os
import resource
import signal
import sys
import warnings

MEMORY_BYTES = 1_000_000_000
CPU_SECONDS = 8
_ORPHAN_SECONDS = 20  # after that it ends, whether or not whoever started it still lives
_NICE = 10


def main(argv: list[str]) -> int:
    """Draw, and say how it went."""
    answer = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(silence, fd)  # decoders talk
    limit()
    said: dict[str, object]
    png = b""
    try:
        frames, png = _draw(int(argv[0]))
        said = {"frames": frames}
    except MemoryError:
        said = {"no": f"it takes more than {MEMORY_BYTES // 1_000_000} MB of memory to draw"}
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises is about this file
        known = type(error).__name__ == "NoFrameError"
        text = str(error).rpartition("raised by all available plugins:")[2].strip() or type(error).__name__
        said = {"no": str(error) if known else f"it could not be decoded: {text}"}
    with contextlib.suppress(BrokenPipeError), answer:
        answer.write(json.dumps(said).encode() + b"\n" + png)
    return 0


def limit() -> None:
    """Give up memory, time, and writing."""
    os.nice(_NICE)
    signal.alarm(_ORPHAN_SECONDS)
    _lower(resource.RLIMIT_AS, MEMORY_BYTES)
    _lower(resource.RLIMIT_CPU, CPU_SECONDS)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)


def give_up_opening() -> None:
    """Open nothing more, no file and no socket, and start no process."""
    _lower(resource.RLIMIT_NOFILE, 0)
    _lower(resource.RLIMIT_NPROC, 0)


def _lower(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _draw(number: int) -> tuple[int, bytes]:
    """How many frames there are, and one of them as PNG."""
    # Not at the top: what they cost is limited by now.
    from PIL import Image  # noqa: PLC0415

    from console import drawing, frames  # noqa: PLC0415

    warnings.simplefilter("ignore")
    logging.disable()
    Image.init()
    with open(0, "rb", closefd=False) as file:
        found = frames.look(file, number)
        give_up_opening()
        picture = drawing.draw(found.decode(), found.dataset, found.index)
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=3)
    return found.count, png.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
