"""Times as people write them: 2h ago, a day, a moment."""

import re
from datetime import UTC, datetime, timedelta

import click

from common.records import utc_text

_AGO = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DAYS = {"today": 0, "yesterday": 1}
EXPECTED = "a time such as 30m, 2h, 3d, 1w (so long ago), today, yesterday, 2026-11-24, or 2026-11-24T14:30"


class Moment(click.ParamType[str]):
    """A moment in the ledger's form, from a text; without a time zone it is of this machine's clock."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the text; anything else is wrong usage."""
        try:
            return utc_text(moment_of(value, datetime.now().astimezone()))
        except (ValueError, OverflowError):
            self.fail(f"expected {EXPECTED}, found {value!r}", param, ctx)


def moment_of(text: str, now: datetime) -> datetime:
    """The moment that a text means.

    Args:
        text: as EXPECTED says.
        now: an aware datetime, in the time zone of the person.

    Raises:
        ValueError: it means none.
    """
    text = text.strip().lower()
    if found := _AGO.fullmatch(text):
        return (now - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])).astimezone(UTC)
    if text in _DAYS:
        day = (now - timedelta(days=_DAYS[text])).date()
        return datetime(day.year, day.month, day.day, tzinfo=None).astimezone().astimezone(UTC)
    return datetime.fromisoformat(text.upper()).astimezone(UTC)
