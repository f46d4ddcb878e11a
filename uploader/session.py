"""The HTTP session that everything goes through: the destination's requests, and those for a token.

It is as the section [destination] says (proxy, certificate authorities, client certificate) and as nothing else says:
no environment, no netrc. It tries nothing again by itself and follows no redirect by itself.
"""

from collections.abc import Iterable
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from common.config import DestinationConfig
from common.redaction import REDACTED
from uploader.patience import POOLS
from uploader.straight import BLOCK

_SHORTEST_SECRET = 4  # characters; a shorter one would be found in what has nothing to do with it


class _Adapter(HTTPAdapter):
    """An adapter without retries of its own, reading the body in large blocks.

    Each must go out within connect_timeout_seconds, which urllib3 applies to sending: larger ones would shut out slow
    lines.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, blocksize=BLOCK)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, blocksize=BLOCK)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        # requests goes by the scheme of the URL, and would not look at the certificate of a proxy that is reached by
        # TLS for a destination that is not.
        look_at = super().cert_verify
        look_at(conn, "https://" if conn.scheme == "https" else url, verify, cert)  # type: ignore[no-untyped-call]


def new_session(config: DestinationConfig) -> requests.Session:
    """A session as the section [destination] says, without credentials; for one thread."""
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = "Stowgate"
    adapter = _Adapter(max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.verify = str(config.ca_bundle) if config.ca_bundle else True
    if config.client_certificate:
        certificate = str(config.client_certificate)
        session.cert = (certificate, str(config.client_key)) if config.client_key else certificate
    if config.proxy:
        session.proxies = {"http": config.proxy, "https": config.proxy}
    return session


def secrets_of(config: DestinationConfig, request: requests.PreparedRequest) -> list[str]:
    """The secrets that an answer to this request could quote."""
    shown = [_text(request.headers.get(name, "")) for name in ("Authorization", "X-Amz-Security-Token")]
    values = [config.password, shown[0].partition(" ")[2], shown[1], *(value for _, value in config.headers)]
    return [value for value in values if len(value) >= _SHORTEST_SECRET]


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def concealed(text: str, secrets: Iterable[str]) -> str:
    """The text with each of these replaced."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text
