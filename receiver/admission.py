"""Who may open an association, and how many (PS3.8 9.3.4). Pure, but for the question whether the disk has room."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from common.config import ReceiverConfig


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 Table 9-21) and, for the log, its reason in words."""

    result: int
    source: int
    diagnostic: int
    reason: str


NO_REASON = Rejection(1, 1, 1, "address is not in allowed_peers")
CALLING_AE_TITLE = Rejection(1, 1, 3, "calling AE title is not in allowed_calling_ae_titles")
CALLED_AE_TITLE = Rejection(1, 1, 7, "called AE title is not ours")
CONGESTION = Rejection(2, 3, 1, "free space is below min_free")
LIMIT = Rejection(2, 3, 2, "max_associations reached")


class Admission:
    """Decides about association requests.

    Args:
        config: the section [receiver].
        has_room: whether the spool can take more.
    """

    def __init__(self, config: ReceiverConfig, has_room: Callable[[], bool]) -> None:
        self._config = config
        self._has_room = has_room

    def decide(self, *, called: str, calling: str, address: str, others: int) -> Rejection | None:
        """Admit an association (None) or say how it is rejected.

        Args:
            called: called AE title; padding does not count.
            calling: calling AE title; padding does not count.
            address: of the peer.
            others: how many associations there are already.
        """
        config = self._config
        if not self._may_connect(address):
            return NO_REASON
        if config.require_called_ae_title and called.strip() != config.ae_title.strip():
            return CALLED_AE_TITLE
        allowed = {title.strip() for title in config.allowed_calling_ae_titles}
        if allowed and calling.strip() not in allowed:
            return CALLING_AE_TITLE
        if others >= config.max_associations:
            return LIMIT
        if not self._has_room():
            return CONGESTION
        return None

    def _may_connect(self, address: str) -> bool:
        if not self._config.allowed_peers:
            return True
        try:
            peer = ipaddress.ip_address(plain_address(address))
        except ValueError:
            return False
        return any(peer in network for network in self._config.allowed_peers)


def plain_address(address: str) -> str:
    """An address without scope, and an IPv4 address that came through an IPv6 socket as IPv4 (RFC 4291 2.5.5.2)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
