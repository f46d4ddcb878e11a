"""The kinds of setting that are texts: AE titles, networks, hosts, paths, secrets.

As in `common.settings_types`, what is unfit is refused whole, and no text that may hold a secret is shown.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from common.settings_types import Kind, UnfitError, quoted

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MASK = "********"
WITHHELD = "a value that is not shown"
_AE_TITLE_CHARACTERS = 16
_MAPPED_BITS = 96  # of an IPv6 address, before the IPv4 address that is mapped into it

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*\.?", re.IGNORECASE)
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]+")


class AETitle(Kind[str]):
    """One application entity title (PS3.5 6.2, VR AE)."""

    @property
    def expected(self) -> str:
        """The rule of PS3.5."""
        return "an AE title of 1 to 16 ASCII characters without backslash or control characters"

    def parse(self, text: str, folder: Path) -> str:
        """Return the title without its surrounding spaces, which are not significant."""
        del folder
        title = text.strip(" ")
        if len(title) > _AE_TITLE_CHARACTERS or not _AE_TITLE.fullmatch(title):
            raise UnfitError(quoted(text))
        return title


class AETitles(Kind[tuple[str, ...]]):
    """AE titles separated by commas only, because a title may contain spaces."""

    @property
    def expected(self) -> str:
        """The rule for each one."""
        return "nothing, or AE titles separated by commas, each of 1 to 16 ASCII characters without backslash"

    def parse(self, text: str, folder: Path) -> tuple[str, ...]:
        """Return the titles in the order given; empty places between commas are skipped."""
        titles = (part.strip() for part in text.split(","))
        return tuple(AETitle().parse(title, folder) for title in titles if title)

    def show(self, value: tuple[str, ...]) -> str:
        """Return the titles separated by commas."""
        return ", ".join(value)


class Networks(Kind[tuple[Network, ...]]):
    """IP addresses and networks, separated by commas or white space."""

    @property
    def expected(self) -> str:
        """The two forms."""
        return "nothing, or IP addresses or networks without host bits, such as 192.0.2.7 or 10.1.0.0/16"

    def parse(self, text: str, folder: Path) -> tuple[Network, ...]:
        """Return the networks; one address is a network of one. 10.1.2.3/8 is unfit: which was meant?"""
        del folder
        networks = []
        for part in re.split(r"[,\s]+", text):
            try:
                networks += [_network(part)] if part else []
            except ValueError:
                raise UnfitError(quoted(part)) from None
        return tuple(networks)

    def show(self, value: tuple[Network, ...]) -> str:
        """Return the networks separated by commas, a network of one as its address."""
        return ", ".join(str(net.network_address if net.prefixlen == net.max_prefixlen else net) for net in value)


def _network(text: str) -> Network:
    """The network as peers are compared with it: IPv4 addresses that are written as IPv6 are IPv4 (RFC 4291 2.5.5.2).

    Raises:
        ValueError: it is none, or has a scope, which says nothing about a peer.
    """
    network = ipaddress.ip_network(text)
    if "%" in text:
        raise ValueError
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ipaddress.IPv4Network((int(mapped), network.prefixlen - _MAPPED_BITS))


class Host(Kind[str]):
    """An IP address or a host name to listen on."""

    @property
    def expected(self) -> str:
        """The two forms."""
        return "an IP address or a host name"

    def parse(self, text: str, folder: Path) -> str:
        """Return the host as given."""
        del folder
        if not is_host(text):
            raise UnfitError(quoted(text))
        return text


def is_host(text: str) -> bool:
    """Whether this is an IP address or a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # Digits and dots that are no address are a slip in an address, not a name.
        return bool(_HOST_NAME.fullmatch(text)) and not re.fullmatch(r"[0-9.]+", text)
    return True


class Folder(Kind[Path]):
    """A directory; it need not exist yet."""

    @property
    def expected(self) -> str:
        """The form."""
        return "a path to a directory"

    def parse(self, text: str, folder: Path) -> Path:
        """Return the path, relative ones below `folder`."""
        if not text or _CONTROL.search(text):
            raise UnfitError(quoted(text))
        return folder / text

    def show(self, value: Path) -> str:
        """Return the path; bytes that are no UTF-8 are escaped, so that it can be printed."""
        return _printable_path(value)


class File(Kind[Path | None]):
    """A file, or none."""

    @property
    def expected(self) -> str:
        """The form."""
        return "nothing, or a path to a file"

    def parse(self, text: str, folder: Path) -> Path | None:
        """Return the path, relative ones below `folder`; None for an empty text."""
        if _CONTROL.search(text):
            raise UnfitError(quoted(text))
        return folder / text if text else None

    def show(self, value: Path | None) -> str:
        """Return the path; bytes that are no UTF-8 are escaped, so that it can be printed."""
        return _printable_path(value) if value else ""


def _printable_path(path: Path) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Text(Kind[str]):
    """A text whose every character is one of `pattern`, or nothing; masked where it is a secret."""

    pattern: str
    words: str
    secret: bool = False

    @property
    def expected(self) -> str:
        """The characters allowed."""
        return f"nothing, or {self.words}"

    def parse(self, text: str, folder: Path) -> str:
        """Return the text."""
        del folder
        if not re.fullmatch(f"(?:{self.pattern})*", text):
            raise UnfitError(WITHHELD if self.secret else quoted(text))
        return text

    def show(self, value: str) -> str:
        """Return the text, or the mask for a secret that is set."""
        return MASK if self.secret and value else value
