"""The kinds of setting that are texts: AE titles, networks, hosts, paths, secrets, URLs.

As in `common.settings_types`, what is unfit is refused whole, and no text that may hold a secret is shown.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from common.settings_types import Kind, UnfitError, quoted

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MASK = "********"
_WITHHELD = "a value that is not shown"
_AE_TITLE_CHARACTERS = 16

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*\.?", re.IGNORECASE)
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
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
                networks += [ipaddress.ip_network(part)] if part else []
            except ValueError:
                raise UnfitError(quoted(part)) from None
        return tuple(networks)

    def show(self, value: tuple[Network, ...]) -> str:
        """Return the networks separated by commas, a network of one as its address."""
        return ", ".join(str(net.network_address if net.prefixlen == net.max_prefixlen else net) for net in value)


class Host(Kind[str]):
    """An IP address or a host name to listen on."""

    @property
    def expected(self) -> str:
        """The two forms."""
        return "an IP address or a host name"

    def parse(self, text: str, folder: Path) -> str:
        """Return the host as given."""
        del folder
        if not _is_host(text):
            raise UnfitError(quoted(text))
        return text


def _is_host(text: str) -> bool:
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
            raise UnfitError(_WITHHELD if self.secret else quoted(text))
        return text

    def show(self, value: str) -> str:
        """Return the text, or the mask for a secret that is set."""
        return MASK if self.secret and value else value


class Url(Kind[str]):
    """The root of a web service."""

    @property
    def expected(self) -> str:
        """The form."""
        return "an absolute http or https URL with a host, and without credentials, query or fragment"

    def parse(self, text: str, folder: Path) -> str:
        """Return the URL without trailing slashes."""
        del folder
        # Whatever follows one of these can be a secret, so such a text is not shown.
        parts = _split(text, show=not re.search(r"[@?#]", text))
        if parts.username is not None or "?" in text or "#" in text:
            raise UnfitError(_WITHHELD)
        return text.rstrip("/")


class TokenUrl(Kind[str]):
    """The URL of an OAuth2 token endpoint (RFC 6749 3.2), or nothing. Its path and query are kept as they are."""

    @property
    def confidential(self) -> bool:
        """Its query may hold a key, the rest is no secret."""
        return True

    @property
    def expected(self) -> str:
        """The form."""
        return "nothing, or an absolute http or https URL with a host, and without credentials or fragment"

    def parse(self, text: str, folder: Path) -> str:
        """Return the URL."""
        del folder
        if text:
            parts = _split(text, show=not re.search(r"[@?#]", text))
            if parts.username is not None or "#" in text:
                raise UnfitError(_WITHHELD)
        return text

    def show(self, value: str) -> str:
        """Return the URL with its query masked."""
        return re.sub(r"\?.+", f"?{MASK}", value)


class Headers(Kind[tuple[tuple[str, str], ...]]):
    """HTTP header fields as `Name: value`, separated by semicolons or line ends; their values are secrets."""

    # What the uploader, its HTTP client or its authentication writes, or what belongs to one connection only.
    OURS = frozenset(
        (
            "accept",
            "accept-encoding",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "expect",
            "host",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
        )
    )

    _NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110 5.6.2)
    _VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

    @property
    def confidential(self) -> bool:
        """Its values are secret, its names are not."""
        return True

    @property
    def expected(self) -> str:
        """The form."""
        return (
            "nothing, or headers such as X-Api-Key: abc; X-Tenant: 7, in ASCII, one a line or separated by semicolons"
        )

    def parse(self, text: str, folder: Path) -> tuple[tuple[str, str], ...]:
        """Return names and values in the order given; empty places between semicolons are skipped."""
        del folder
        headers: dict[str, tuple[str, str]] = {}
        for number, part in enumerate(filter(None, map(str.strip, re.split(r"[;\r\n]", text))), 1):
            name, colon, value = (piece.strip(" \t") for piece in part.partition(":"))
            if not colon or not self._NAME.fullmatch(name) or not self._VALUE.fullmatch(value):
                # Where the name should be may be a part of a key.
                raise UnfitError(f"something else in place {number}, which is not shown")
            if name.lower() in self.OURS:
                raise UnfitError(f"{name.lower()}, which is not to be set here")
            if name.lower() in headers:
                raise UnfitError(f"the same name in place {number} as before")
            headers[name.lower()] = name, value
        return tuple(headers.values())

    def show(self, value: tuple[tuple[str, str], ...]) -> str:
        """Return the headers with their values masked."""
        return "; ".join(f"{name}: {MASK}" for name, _ in value)


class Proxy(Kind[str]):
    """The URL of an HTTP proxy, or nothing; it may contain credentials."""

    @property
    def confidential(self) -> bool:
        """Its credentials are secret, the rest is not."""
        return True

    @property
    def expected(self) -> str:
        """The form."""
        return "nothing, or an http or https URL with a host and no path, such as http://proxy.example:3128"

    def parse(self, text: str, folder: Path) -> str:
        """Return the URL without trailing slash; an empty text stays empty."""
        del folder
        if text:
            parts = _split(text, show=False)
            if parts.path.strip("/") or "?" in text or "#" in text:
                raise UnfitError(_WITHHELD)
        return text.rstrip("/")

    def show(self, value: str) -> str:
        """Return the URL with its credentials masked."""
        return re.sub(r"//.*@", f"//{MASK}@", value)


def _split(url: str, *, show: bool) -> SplitResult:
    """Return the parts of an absolute http or https URL, or raise UnfitError, showing `url` if allowed."""
    found = quoted(url) if show else _WITHHELD
    if not url or not _VISIBLE_ASCII.fullmatch(url) or "\\" in url:
        raise UnfitError(found if show or url else "nothing")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # What stands where the port should be may be the password of forgotten credentials.
        raise UnfitError(_WITHHELD) from None
    if parts.scheme not in ("http", "https") or not _is_host(parts.hostname or "") or port == 0:
        raise UnfitError(found)
    return parts
