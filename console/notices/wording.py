"""A notice in words: one line for a subject, a text for people, a document for machines. Pure.

The document (webhook) has the members

    text      all of it in plain text: what Slack, Mattermost, Rocket.Chat and the like show
    product   "stowgate"
    version   1; members may be added without a new one
    id        of this notice: whoever gets it twice knows by it
    kind      trouble (something new), reminder (it lasts), recovery (all that is told is over), test
    host      the machine
    at        when the notice was made, UTC, ISO 8601
    troubles  for each: key, change (new, lasting, over), severity (error, warning), title, text, advice, since
"""

from typing import Any

from common import logs
from common.records import utc_text
from console.notices.telling import Change, Line, Notice

VERSION = 1
_TEXT_LIMIT = 500  # characters of one sentence

# What chats take for a mention, a link or a command: no archive's answer is to call everybody.
_HARMLESS = str.maketrans({"<": "(", ">": ")", "@": "(at)", "`": "'"})
_CHANGES = {Change.NEW: "", Change.LASTING: "STILL: ", Change.OVER: "OVER: "}


def subject(notice: Notice, host: str) -> str:
    """The notice in one line."""
    prefix = f"Stowgate on {host}: "
    if not notice.lines:
        return f"{prefix}a test"
    first = notice.lines[0]
    verb = {Change.NEW: "", Change.LASTING: "still: ", Change.OVER: "over: "}[first.change]
    more = f", and {len(notice.lines) - 1} more" if len(notice.lines) > 1 else ""
    return logs.escape(f"{prefix}{verb}{first.title}{more}", 200)


def text(notice: Notice, host: str) -> str:
    """The notice as plain text."""
    if not notice.lines:
        return f"Stowgate on {host}: this is a test. Had it been trouble, you would read here what it is.\n"
    parts = [f"Stowgate on {host}, {_moment(notice.at)}\n"]
    parts += [_paragraph(line, notice) for line in notice.lines]
    return "\n".join(parts)


def document(notice: Notice, host: str) -> dict[str, Any]:
    """The notice as the JSON document of the head of this module."""
    return {
        "text": text(notice, host).translate(_HARMLESS),
        "product": "stowgate",
        "version": VERSION,
        "id": notice.id,
        "kind": _kind(notice),
        "host": host,
        "at": utc_text(notice.at),
        "troubles": [
            {
                "key": line.key,
                "change": line.change.value,
                "severity": line.severity.value,
                "title": line.title,
                "text": logs.escape(line.text, _TEXT_LIMIT),
                "advice": line.advice,
                "since": utc_text(line.since),
            }
            for line in notice.lines
        ],
    }


def card(notice: Notice, host: str) -> dict[str, Any]:
    """The notice as a message with an Adaptive Card, as Workflows of Microsoft Teams take it."""
    first, *paragraphs = text(notice, host).translate(_HARMLESS).strip().split("\n\n")
    blocks = [{"type": "TextBlock", "text": first, "wrap": True, "weight": "bolder"}]
    # A line end alone is none in a text block.
    blocks += [{"type": "TextBlock", "text": part.replace("\n", "\n\n"), "wrap": True} for part in paragraphs]
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "body": blocks,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": content}]}


def _kind(notice: Notice) -> str:
    changes = {line.change for line in notice.lines}
    if not changes:
        return "test"
    if Change.NEW in changes:
        return "trouble"
    return "reminder" if Change.LASTING in changes else "recovery"


def _paragraph(line: Line, notice: Notice) -> str:
    if line.change is Change.OVER:
        return f"OVER: {line.title} (it was so since {_moment(line.since)}).\n"
    words = [_CHANGES[line.change], f"[{line.severity.value}] ", logs.escape(line.text, _TEXT_LIMIT)]
    if line.advice:
        words += ["\n", line.advice]
    if (notice.at - line.since).total_seconds() > 90:
        words += [f"\nSince {_moment(line.since)}."]
    return "".join(words) + "\n"


def _moment(at: Any) -> str:
    return f"{utc_text(at)[:19].replace('T', ' ')} UTC"
