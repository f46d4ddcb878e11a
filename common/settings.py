"""Every setting of Stowgate: its type, default, range and one line about it. This is the one place for them.

pipeline.ini, the environment, `Config.describe()` and the documentation follow from here, and tests hold
them to it. A section is a frozen dataclass; made without arguments it has the defaults, with paths relative
to the current directory.
"""

# ruff: noqa: RUF009 -- declared returns a dataclasses.field, evaluated once as it should be

import dataclasses
import enum
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.settings_console import ConsoleConfig, NotifyConfig, RetentionConfig
from common.settings_texts import (
    AETitle,
    AETitles,
    File,
    Folder,
    Host,
    Network,
    Networks,
    Text,
)
from common.settings_types import Choice, Kind, Seconds, Size, Whole, YesNo, declared
from common.settings_web import Headers, Proxy, TokenUrl, Url

__all__ = [
    "SECTIONS",
    "SETTINGS",
    "Auth",
    "ConsoleConfig",
    "DestinationConfig",
    "Level",
    "LogFormat",
    "LoggingConfig",
    "NotifyConfig",
    "ReceiverConfig",
    "RetentionConfig",
    "Setting",
    "SpoolConfig",
    "UploaderConfig",
    "Verify",
]

_KB, _MIB, _TB = 1000, 1024**2, 1000**4

# Basic credentials are "user:password" in UTF-8 without control characters (RFC 7617 section 2), a bearer
# token is one run of visible ASCII (RFC 6750 section 2.1). Surrogates stand for bytes that are no UTF-8.
_PLAIN = Text(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]", "text without control characters")
_USERNAME = Text(r"[^:\x00-\x1f\x7f-\x9f\ud800-\udfff]", "text without colon or control characters")
_PASSWORD = Text(_PLAIN.pattern, _PLAIN.words, secret=True)
_TOKEN = Text(r"[\x21-\x7e]", "visible ASCII characters without spaces", secret=True)
# RFC 6749 Appendix A.4.
_SCOPE = Text(r"[\x21\x23-\x5b\x5d-\x7e ]", "ASCII words separated by spaces, without quotes or backslashes")


class Auth(enum.Enum):
    """How the uploader shows the destination who it is."""

    NONE = "none"
    """By nothing but, if set, its client certificate."""
    BASIC = "basic"
    """By `username` and `password` (RFC 7617)."""
    BEARER = "bearer"
    """By `token`, or what `token_file` holds (RFC 6750)."""
    OAUTH2 = "oauth2"
    """By a token fetched with the client credentials grant (RFC 6749 4.4)."""
    GOOGLE = "google"
    """By a token of Google's Application Default Credentials. Optional: needs google-auth."""
    AWS = "aws"
    """By AWS Signature Version 4. Optional: needs botocore."""


class Verify(enum.Enum):
    """What the archive is asked before a file is deleted (docs/decisions/0011)."""

    NO = "no"
    """Nothing: its answer to the Store request counts."""
    QUERY = "query"
    """By QIDO-RS whether an instance of that UID is there."""
    DUPLICATES = "duplicates"
    """By WADO-RS what is there, if it says that it had the instance already, or that there is a conflict."""
    RETRIEVE = "retrieve"
    """By WADO-RS what is there, always."""


class LogFormat(enum.Enum):
    """What a log line looks like."""

    TEXT = "text"
    """Time, process, level and text, then key=value."""
    JSON = "json"
    """One JSON object."""


class Level(enum.IntEnum):
    """The lowest level that is logged; the values are those of the `logging` module."""

    DEBUG = logging.DEBUG
    """Every step, for a fault report."""
    INFO = logging.INFO
    """What happened to each instance."""
    WARNING = logging.WARNING
    """What went wrong and is dealt with."""
    ERROR = logging.ERROR
    """What needs a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """Section [spool]: the directory that holds what is owed."""

    directory: Path = declared(Folder(), "spool", "Holds incoming/, quarantine/, staging/ and the ledger")
    min_free: int = declared(
        Size(0, 1000 * _TB), "1 GB", "Below this much free space the receiver answers 0xA700 and takes nothing in"
    )
    settle_seconds: float = declared(
        Seconds(0.1, 3600), "2", "A dropped file that nobody closed is taken when unchanged for this long"
    )
    rescan_seconds: float = declared(
        Seconds(0.1, 3600), "30", "How often incoming/ is read again, whatever file events said"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverConfig:
    """Section [receiver]: the Storage SCP."""

    ae_title: str = declared(AETitle(), "STOWGATE", "The receiver's own AE title")
    host: str = declared(Host(), "0.0.0.0", "Address to listen on; :: for IPv6")  # noqa: S104 -- modalities call in
    port: int = declared(Whole(1, 65535), "11112", "TCP port to listen on")
    require_called_ae_title: bool = declared(
        YesNo(), "no", "Reject associations that call the receiver by another AE title"
    )
    allowed_calling_ae_titles: tuple[str, ...] = declared(
        AETitles(), "", "Calling AE titles to accept; empty accepts every one"
    )
    allowed_peers: tuple[Network, ...] = declared(
        Networks(), "", "Addresses that may open an association; empty allows every one"
    )
    max_associations: int = declared(Whole(1, 1000), "64", "Associations served at the same time")
    max_pdu: int = declared(Size(4096, 16 * _MIB), "128 KB", "Longest P-DATA-TF PDU that a peer may send")
    acse_timeout_seconds: float = declared(
        Seconds(0.1, 3600), "30", "How long a peer may take to request or release an association"
    )
    network_timeout_seconds: float = declared(
        Seconds(0.1, 86400), "60", "How long an association may pass without a byte"
    )
    shutdown_seconds: float = declared(Seconds(0, 3600), "20", "How long a stop waits for instances being received")
    tls_certificate: Path | None = declared(File(), "", "Server certificate chain, PEM; set, it turns TLS on")
    tls_key: Path | None = declared(File(), "", "Key of the server certificate, PEM")
    tls_client_ca: Path | None = declared(
        File(), "", "CA certificates, PEM; set, a peer must show a certificate that one of them issued"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationConfig:
    """Section [destination]: the DICOMweb archive."""

    url: str = declared(
        Url(), "http://127.0.0.1:8080/dicom-web", "Root of the DICOMweb service; the uploader posts to <url>/studies"
    )
    connect_timeout_seconds: float = declared(
        Seconds(0.1, 3600), "30", "How long connecting, or the next 128 KB of a request, may take"
    )
    read_timeout_seconds: float = declared(Seconds(0.1, 86400), "300", "How long the answer may be silent")
    auth: Auth = declared(Choice(Auth), "none", "How to authenticate")
    username: str = declared(_USERNAME, "", "User for auth = basic")
    password: str = declared(_PASSWORD, "", "Password for auth = basic")
    token: str = declared(_TOKEN, "", "Token for auth = bearer")
    token_file: Path | None = declared(
        File(), "", "File that holds the token for auth = bearer instead; read for each request, so it can be renewed"
    )
    oauth2_token_url: str = declared(TokenUrl(), "", "Where a token is fetched for auth = oauth2")
    oauth2_client_id: str = declared(_PLAIN, "", "Client that the token is fetched for")
    oauth2_client_secret: str = declared(_PASSWORD, "", "Secret of that client")
    oauth2_scope: str = declared(_SCOPE, "", "Scopes of the token, if the authorization server wants them named")
    headers: tuple[tuple[str, str], ...] = declared(
        Headers(), "", "HTTP headers for each request to the archive; with API keys they belong in the environment"
    )
    ca_bundle: Path | None = declared(File(), "", "CA certificates to trust, PEM, instead of the usual ones")
    client_certificate: Path | None = declared(File(), "", "Client certificate chain, PEM; may hold its key too")
    client_key: Path | None = declared(File(), "", "Key of the client certificate, PEM")
    proxy: str = declared(Proxy(), "", "HTTP proxy; one with a password belongs in the environment")
    verify: Verify = declared(
        Choice(Verify), "no", "What to ask the archive before a file is deleted; docs/archives.md says what each proves"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UploaderConfig:
    """Section [uploader]: how instances are delivered."""

    threads: int = declared(Whole(1, 64), "4", "Requests in flight at the same time")
    batch_instances: int = declared(Whole(1, 10000), "50", "Most instances in one request")
    batch_size: int = declared(
        Size(_KB, _TB), "64 MB", "Most bytes in one request; a larger instance travels by itself"
    )
    max_attempts: int = declared(Whole(1, 1000), "8", "Attempts before an instance is given up to quarantine")
    backoff_initial_seconds: float = declared(Seconds(0.01, 86400), "1", "First wait after a temporary failure")
    backoff_max_seconds: float = declared(Seconds(0.01, 86400), "300", "Longest wait after a temporary failure")
    shutdown_seconds: float = declared(Seconds(0, 3600), "20", "How long a stop waits for requests in flight")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """Section [logging]: what goes to standard error."""

    level: Level = declared(Choice(Level), "INFO", "Lowest level that is logged")
    format: LogFormat = declared(Choice(LogFormat), "text", "Text for people or JSON for machines")
    patient_identifiers: bool = declared(
        YesNo(), "no", "Let patient names, IDs and other identifying values into logs and sidecars"
    )


SECTIONS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "spool": SpoolConfig,
        "receiver": ReceiverConfig,
        "destination": DestinationConfig,
        "uploader": UploaderConfig,
        "console": ConsoleConfig,
        "notify": NotifyConfig,
        "retention": RetentionConfig,
        "logging": LoggingConfig,
    }
)


@dataclass(frozen=True)
class Setting:
    """One key of one section.

    Attributes:
        section: name in brackets.
        key: name in the section and field of its dataclass.
        kind: what it accepts.
        default: the default, as text.
        doc: one line about it.
    """

    section: str
    key: str
    kind: Kind[Any]
    default: str
    doc: str

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"STOWGATE_{self.section}_{self.key}".upper()

    @property
    def comment(self) -> str:
        """What pipeline.ini says of it, on one line or several."""
        place = f"; belongs in the environment: {self.variable}" if self.kind.secret else ""
        return f"{self.doc} ({self.kind.expected}){place}"


SETTINGS: Mapping[tuple[str, str], Setting] = MappingProxyType(
    {
        (section, field.name): Setting(section, field.name, **field.metadata)
        for section, fields in SECTIONS.items()
        for field in dataclasses.fields(fields)
    }
)
