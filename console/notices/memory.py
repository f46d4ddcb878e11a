"""What was told, over a restart: one small file in processes/, and a claim, so that of several consoles one tells.

Worth nothing if it is lost: what lasts is told once more. So it is replaced, never flushed, and a failure is only
logged. It holds no patient data, as notices do not.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from common import logs
from common.presence import FOLDER
from common.records import utc_text
from console.notices.signs import Level, Sign
from console.notices.telling import Change, Line, Notice, Seen, Told
from console.overview import Severity

log = logs.get(__name__)

_NAME = "notices"
_CLAIM = "notices-claim"
_VERSION = 1
_MOST_BYTES = 1_000_000


class Memory:
    """The file and the claim of one spool.

    Args:
        spool: the spool directory.
    """

    def __init__(self, spool: Path) -> None:
        self._folder = spool / FOLDER
        self._fd = -1
        self._last = b""

    def claim(self) -> bool:
        """Become the one who tells; False if another process is.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._folder / _CLAIM, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Let another one tell."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def load(self) -> tuple[Told, Mapping[str, Sequence[Notice]]]:
        """What was told, and what is still to be delivered, by channel; nothing if the file cannot be read."""
        try:
            fd = os.open(self._folder / _NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                said = json.loads(file.read(_MOST_BYTES))
            if said["version"] != _VERSION:
                return Told(), {}
            told = Told({key: _seen(one) for key, one in said["seen"].items()}, _moment(said["last_at"]))
            return told, {name: [_notice(one) for one in notices] for name, notices in said["waiting"].items()}
        except FileNotFoundError:
            return Told(), {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("what was told is not remembered", reason=type(error).__name__)
            return Told(), {}

    def save(self, told: Told, waiting: Mapping[str, Sequence[Notice]]) -> None:
        """Keep it, if it has changed."""
        said = {
            "version": _VERSION,
            "last_at": _text(told.last_at),
            "seen": {key: _of_seen(one) for key, one in told.seen.items()},
            "waiting": {name: [_of_notice(one) for one in notices] for name, notices in waiting.items()},
        }
        data = json.dumps(said).encode()
        if data == self._last:
            return
        temporary = self._folder / f".{_NAME}.part"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(data)
            os.rename(temporary, self._folder / _NAME)
        except OSError as error:
            log.debug("what was told is not kept", reason=error.strerror)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        else:
            self._last = data


def _of_seen(one: Seen) -> dict[str, Any]:
    sign = one.sign
    return {
        "since": utc_text(one.since),
        "told_at": _text(one.told_at),
        "gone_at": _text(one.gone_at),
        "over_at": _text(one.over_at),
        "calm": one.calm,
        "hold": sign.hold,
        "severity": sign.severity,
        "title": sign.title,
        "text": sign.text,
        "advice": sign.advice,
    }


def _seen(said: Mapping[str, Any]) -> Seen:
    sign = Sign(
        Level.THERE,
        float(said["hold"]),
        Severity(said["severity"]),
        str(said["title"]),
        str(said["text"]),
        str(said["advice"]),
    )
    return Seen(
        datetime.fromisoformat(said["since"]),
        sign,
        told_at=_moment(said["told_at"]),
        gone_at=_moment(said["gone_at"]),
        calm=float(said["calm"]),
        over_at=_moment(said["over_at"]),
    )


def _of_notice(notice: Notice) -> dict[str, Any]:
    return {
        "id": notice.id,
        "at": utc_text(notice.at),
        "lines": [
            {
                "key": line.key,
                "change": line.change,
                "severity": line.severity,
                "title": line.title,
                "text": line.text,
                "advice": line.advice,
                "since": utc_text(line.since),
            }
            for line in notice.lines
        ],
    }


def _notice(said: Mapping[str, Any]) -> Notice:
    lines = tuple(
        Line(
            str(one["key"]),
            Change(one["change"]),
            Severity(one["severity"]),
            str(one["title"]),
            str(one["text"]),
            str(one["advice"]),
            datetime.fromisoformat(one["since"]),
        )
        for one in said["lines"]
    )
    return Notice(str(said["id"]), datetime.fromisoformat(said["at"]), lines)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else utc_text(moment)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
