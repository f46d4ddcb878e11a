"""The kinds of setting that say how the web is reached: URLs, a proxy, HTTP headers.

As in `common.settings_types`, what is unfit is refused whole, and no text that may hold a secret is shown.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from common.settings_texts import MASK, WITHHELD, is_host
from common.settings_types import Kind, UnfitError, quoted

_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


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
            raise UnfitError(WITHHELD)
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
                raise UnfitError(WITHHELD)
        return text

    def show(self, value: str) -> str:
        """Return the URL with its query masked."""
        return re.sub(r"\?.+", f"?{MASK}", value)


class SecretUrl(TokenUrl):
    """The URL of a web hook, or nothing: whoever knows it may post there, so that all behind the host is a secret."""

    def show(self, value: str) -> str:
        """Return the URL with all behind its host masked."""
        return re.sub(r"(//[^/?]*[/?]).+", rf"\1{MASK}", value)


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
                raise UnfitError(WITHHELD)
        return text.rstrip("/")

    def show(self, value: str) -> str:
        """Return the URL with its credentials masked."""
        return re.sub(r"//.*@", f"//{MASK}@", value)


def _split(url: str, *, show: bool) -> SplitResult:
    """Return the parts of an absolute http or https URL, or raise UnfitError, showing `url` if allowed."""
    found = quoted(url) if show else WITHHELD
    if not url or not _VISIBLE_ASCII.fullmatch(url) or "\\" in url:
        raise UnfitError(found if show or url else "nothing")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # What stands where the port should be may be the password of forgotten credentials.
        raise UnfitError(WITHHELD) from None
    if parts.scheme not in ("http", "https") or not is_host(parts.hostname or "") or port == 0:
        raise UnfitError(found)
    return parts
