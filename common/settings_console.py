"""The settings of the console: its page, who is told of trouble, and what is kept how long.

Declared here for `common.settings`, where all of them come together.
"""

# ruff: noqa: RUF009 -- declared returns a dataclasses.field, evaluated once as it should be

import enum
import re
from dataclasses import dataclass
from pathlib import Path

from common.settings_texts import File, Host, Text, is_host
from common.settings_types import Choice, Kind, Seconds, Size, UnfitError, Whole, declared, quoted
from common.settings_web import SecretUrl

__all__ = ["ConsoleConfig", "MailSecurity", "NotifyConfig", "RetentionConfig", "WebhookFormat"]

_TB = 1000**4
_DAYS = Whole(0, 36500)
# smtplib signs in with ASCII alone.
_PLAIN = Text(r"[\x20-\x7e]", "printable ASCII characters")
_SECRET = Text(_PLAIN.pattern, _PLAIN.words, secret=True)
_TOKEN = Text(r"[\x21-\x7e]", "visible ASCII characters without spaces", secret=True)
# What mail servers accept in practice of RFC 5321 4.1.2, without quoted local parts.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,255}")


class MailSecurity(enum.Enum):
    """How the connection to the mail server is protected."""

    STARTTLS = "starttls"
    """By STARTTLS (RFC 3207), certificate verified."""
    TLS = "tls"
    """By TLS from the first byte (RFC 8314), certificate verified."""
    NONE = "none"
    """Not at all."""


class WebhookFormat(enum.Enum):
    """What is posted to a web hook."""

    JSON = "json"
    """The document of console.notices.wording, with a text that most chats show."""
    TEAMS = "teams"
    """A message with an Adaptive Card, the only form that Workflows of Microsoft Teams take."""


class HostNames(Kind[tuple[str, ...]]):
    """Host names separated by commas or white space."""

    @property
    def expected(self) -> str:
        """The form."""
        return "nothing, or host names separated by commas"

    def parse(self, text: str, folder: Path) -> tuple[str, ...]:
        """Return the names in lower case."""
        del folder
        names = [part for part in re.split(r"[,\s]+", text) if part]
        for name in names:
            if not is_host(name):
                raise UnfitError(quoted(name))
        return tuple(name.lower() for name in names)

    def show(self, value: tuple[str, ...]) -> str:
        """Return the names separated by commas."""
        return ", ".join(value)


class MailServer(Host):
    """A host, or nothing."""

    @property
    def expected(self) -> str:
        """The two forms."""
        return "nothing, or an IP address or a host name"

    def parse(self, text: str, folder: Path) -> str:
        """Return the host as given; an empty text stays empty."""
        return super().parse(text, folder) if text else ""


class MailAddress(Kind[str]):
    """One mail address, or nothing."""

    @property
    def expected(self) -> str:
        """The form."""
        return "nothing, or a mail address such as stowgate@hospital.example"

    def parse(self, text: str, folder: Path) -> str:
        """Return the address."""
        del folder
        if text and not _ADDRESS.fullmatch(text):
            raise UnfitError(quoted(text))
        return text


class MailAddresses(Kind[tuple[str, ...]]):
    """Mail addresses separated by commas or white space."""

    @property
    def expected(self) -> str:
        """The form."""
        return "nothing, or mail addresses separated by commas"

    def parse(self, text: str, folder: Path) -> tuple[str, ...]:
        """Return the addresses in the order given."""
        return tuple(MailAddress().parse(part, folder) for part in re.split(r"[,\s]+", text) if part)

    def show(self, value: tuple[str, ...]) -> str:
        """Return the addresses separated by commas."""
        return ", ".join(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleConfig:
    """Section [console]: the web page."""

    host: str = declared(Host(), "127.0.0.1", "Address of the web page; beyond this machine it needs users and TLS")
    port: int = declared(Whole(1, 65535), "11180", "TCP port of the web page")
    host_names: tuple[str, ...] = declared(
        HostNames(), "", "Names by which browsers call the page, beside its address and localhost"
    )
    users_file: Path | None = declared(
        File(), "", "Who may sign in, made by `python -m console user`; without it, by a link from the command line"
    )
    session_minutes: int = declared(Whole(1, 1440), "30", "How long a person stays signed in without doing anything")
    tls_certificate: Path | None = declared(File(), "", "Certificate chain of the page, PEM; set, it turns TLS on")
    tls_key: Path | None = declared(File(), "", "Key of that certificate, PEM")
    metrics_token: str = declared(_TOKEN, "", "Bearer token that /metrics asks for; empty: it is open")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    """Section [notify]: who is told of trouble by `python -m console serve`."""

    webhook_url: str = declared(SecretUrl(), "", "Where trouble is posted as JSON; belongs in the environment")
    webhook_format: WebhookFormat = declared(
        Choice(WebhookFormat), "json", "What is posted: JSON with a text, which most chats show, or a card for Teams"
    )
    mail_server: str = declared(MailServer(), "", "Mail server that takes messages; empty: no mail")
    mail_port: int = declared(Whole(1, 65535), "587", "Port of the mail server")
    mail_security: MailSecurity = declared(Choice(MailSecurity), "starttls", "How the connection to it is protected")
    mail_username: str = declared(_PLAIN, "", "User at the mail server; empty: none is needed")
    mail_password: str = declared(_SECRET, "", "Password of that user")
    mail_from: str = declared(MailAddress(), "", "Sender of the messages")
    mail_to: tuple[str, ...] = declared(MailAddresses(), "", "Who gets the messages")
    ca_bundle: Path | None = declared(
        File(), "", "CA certificates to trust for web hook and mail, PEM, instead of the usual ones"
    )
    paused_seconds: float = declared(Seconds(1, 86400), "300", "The destination is paused for this long: say so")
    low_disk: int = declared(Size(0, 1000 * _TB), "5 GB", "Less than this is free for the spool: say so")
    quarantine_per_hour: int = declared(
        Whole(0, 1_000_000), "10", "So many instances went to quarantine within an hour: say so; 0: never"
    )
    repeat_seconds: float = declared(Seconds(60, 604800), "14400", "How often trouble that lasts is said again")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """Section [retention]: what is kept how long. What is owed is never touched."""

    settled_days: int = declared(_DAYS, "400", "Rows of what was sent or removed are kept so many days; 0: for ever")
    settled_rows: int = declared(
        Whole(0, 1_000_000_000), "5000000", "So many rows of that kind are kept at most; 0: all of them"
    )
    event_days: int = declared(
        _DAYS, "400", "The history of what was sent or removed is kept so many days; 0: as long as its row"
    )
    quarantine_days: int = declared(_DAYS, "0", "Files in quarantine/ are deleted after so many days; 0: never")
    quarantine_size: int = declared(
        Size(0, 1000 * _TB), "0 B", "Beyond so many bytes in quarantine/ the oldest files are deleted; 0 B: never"
    )
