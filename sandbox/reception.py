"""Reads the body of one POST: parts to the store, their identities checked, the rule found on the way.

Memory is bounded by a chunk of the body and the head of one part, however large the instances are.
"""

from dataclasses import dataclass

from aiohttp import web

from sandbox.multipart import MultipartParser, PartContent, PartEnded, PartStarted
from sandbox.part10 import Checked, check_part10
from sandbox.rulebook import ActiveRule, Selection
from sandbox.rules import Drop
from sandbox.store import Partial, Store


@dataclass(frozen=True)
class Part:
    """One complete part, not yet under its final name."""

    partial: Partial
    checked: Checked

    @property
    def sop_instance_uid(self) -> str | None:
        """The UID that the part claims; None if it has none that is valid."""
        return self.checked.identity.sop_instance_uid


class Reception:
    """Takes in the body of one POST.

    Attributes:
        parts: the complete parts so far, in their order.
        bytes: bytes of the body read so far.
        active: the rule that the POST falls under, once it is certain.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self.parts: list[Part] = []
        self.bytes = 0
        self.active: ActiveRule | None = None
        self._store = store
        self._selection = selection
        self._current: Partial | None = None

    async def read(self, request: web.Request, boundary: str, length: int) -> None:
        """Read the body to its end, or to where a rule cuts it off.

        Args:
            request: its body unread.
            boundary: of the multipart body.
            length: the Content-Length in bytes.

        Raises:
            FramingError: the body is malformed.
            ConnectionError, aiohttp.ClientPayloadError: the peer closed the connection.
        """
        self._advance(complete=False)
        if self._cut(length):
            return
        parser = MultipartParser(boundary)
        async for chunk in request.content.iter_any():
            self.bytes += len(chunk)
            for event in parser.feed(chunk):
                self._take(event)
            if self._cut(length):
                return
        parser.close()
        self._advance(complete=True)

    def discard(self) -> None:
        """Delete what has not been given a final name."""
        for part in self.parts:
            part.partial.discard()
        if self._current is not None:
            self._current.discard()

    def _take(self, event: PartStarted | PartContent | PartEnded) -> None:
        if isinstance(event, PartStarted):
            self._current = self._store.start()
        elif self._current is not None and isinstance(event, PartContent):
            self._current.write(event.data)
        elif self._current is not None:
            self._current.finish()
            part = Part(self._current, check_part10(self._current.take_head()))
            self._current = None
            self.parts.append(part)
            if part.sop_instance_uid is not None:
                self._store.posts[part.sop_instance_uid] += 1
            self._advance(complete=False)

    def _advance(self, *, complete: bool) -> None:
        uids = {part.sop_instance_uid for part in self.parts if part.sop_instance_uid is not None}
        self.active = self._selection.advance(uids, len(self.parts), complete=complete)

    def _cut(self, length: int) -> bool:
        """Say whether a rule ends the reading here."""
        if self.active is None:
            return False
        rule = self.active.rule
        if rule.drop is Drop.DURING:
            return self.bytes >= length // 2 or not rule.decidable_unread()
        return rule.drop is Drop.BEFORE
