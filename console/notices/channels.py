"""The ways to people: what one is, and what it says when a notice did not get there."""

from typing import Protocol

from console.notices.telling import Notice


class UndeliveredError(Exception):
    """A notice did not get there; the text says why, without address, secret or anything that the other side wrote."""


class Channel(Protocol):
    """One way to people."""

    name: str
    """webhook or mail."""

    def send(self, notice: Notice) -> None:
        """Deliver a notice.

        Raises:
            UndeliveredError: it did not get there, as far as is known.
        """
