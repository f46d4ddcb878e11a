"""Who may open an association, and how many there may be (PS3.8 9.3.4). It knows no network and no disk."""

import ipaddress
import threading
from collections.abc import Callable
from dataclasses import dataclass

from common.config import ReceiverConfig


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 Table 9-21); its reason in words for the log, and as one word, to be counted by."""

    result: int
    source: int
    diagnostic: int
    reason: str
    word: str


PEER = Rejection(1, 1, 1, "the address is not in allowed_peers", "peer")
CALLING_AE_TITLE = Rejection(1, 1, 3, "the calling AE title is not in allowed_calling_ae_titles", "calling-ae-title")
CALLED_AE_TITLE = Rejection(1, 1, 7, "the called AE title is not ours", "called-ae-title")
DISK_FULL = Rejection(2, 3, 1, "free space is below min_free", "disk-full")
LIMIT = Rejection(2, 3, 2, "max_associations is reached", "limit")


class Admission:
    """Decides about association requests, and counts the associations that it admitted. Thread-safe.

    Args:
        config: the section [receiver].
        has_room: whether the spool can take more.
    """

    def __init__(self, config: ReceiverConfig, has_room: Callable[[], bool]) -> None:
        self._config = config
        self._calling = frozenset(title.strip() for title in config.allowed_calling_ae_titles)
        self._has_room = has_room
        self._lock = threading.Lock()
        self._admitted = 0

    def admit(self, *, called: str, calling: str, address: str) -> Rejection | None:
        """Admit an association (None) or say how it is rejected. Who is admitted must `leave`.

        Args:
            called: called AE title; padding does not count (PS3.8 Table 9-11).
            calling: calling AE title; padding does not count.
            address: of the peer, as `plain_address` gives it.
        """
        config = self._config
        if not self._may_connect(address):
            return PEER
        if config.require_called_ae_title and called.strip() != config.ae_title.strip():
            return CALLED_AE_TITLE
        if self._calling and calling.strip() not in self._calling:
            return CALLING_AE_TITLE
        if not self._has_room():
            return DISK_FULL
        with self._lock:
            if self._admitted >= config.max_associations:
                return LIMIT
            self._admitted += 1
        return None

    def leave(self) -> None:
        """One admitted association is over."""
        with self._lock:
            self._admitted -= 1

    def _may_connect(self, address: str) -> bool:
        if not self._config.allowed_peers:
            return True
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(peer in network for network in self._config.allowed_peers)


def plain_address(address: str) -> str:
    """An address without its scope, and an IPv4 address that came through an IPv6 socket as IPv4 (RFC 4291 2.5.5.2)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
