"""Tokens of Google's Application Default Credentials, by google-auth, which is optional.

google-auth finds out what there is: a key file that GOOGLE_APPLICATION_CREDENTIALS names, workload identity federation,
the login of gcloud, or the metadata server of the machine. Its requests go through the proxy and with the certificate
authorities of [destination]; only the metadata server, which is this machine's own, is asked directly.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import google.auth
import google.auth.exceptions
import google.auth.transport.requests

from common.config import DestinationConfig
from uploader.session import new_session
from uploader.tokens import CredentialsError, Token
from uploader.verdict import Failure

# It writes requests and answers into its lines for debugging, and warns of what it tries again, with its text.
logging.getLogger("google").setLevel(logging.ERROR)

# What an account may do is decided by its roles; this scope is one that every kind of credentials can be asked for.
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_ANSWER_SECONDS = 60.0
_METADATA_HOSTS = ("metadata.google.internal", "169.254.169.254")
_METADATA_VARIABLES = ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP")


class ApplicationDefault:
    """Fetches tokens of the application default credentials; for one thread at a time."""

    def __init__(self, config: DestinationConfig) -> None:
        self._config = config
        self._request: _Request | None = None
        self._credentials: Any = None

    def fetch(self) -> Token:
        """Get a new token.

        Raises:
            CredentialsError: there is none.
        """
        if self._request is None:
            self._request = _Request(self._config)
        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=_SCOPES, request=self._request)
            self._credentials.refresh(self._request)
        except google.auth.exceptions.DefaultCredentialsError:
            raise CredentialsError(
                "no Google Application Default Credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run "
                "on a machine with a service account"
            ) from None
        except google.auth.exceptions.GoogleAuthError as error:
            raise _no_token(error) from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            # It takes a key file that is JSON for one that is an object.
            raise CredentialsError(f"Google's credentials cannot be read ({type(error).__name__})") from None
        token, expiry = self._credentials.token, self._credentials.expiry
        return Token(token, None if expiry is None else (_aware(expiry) - datetime.now(UTC)).total_seconds())


class _Request(google.auth.transport.requests.Request):
    """google-auth's requests by our session."""

    def __init__(self, config: DestinationConfig) -> None:
        session = new_session(config)
        hosts = {*_METADATA_HOSTS, *(os.environ.get(name, "").partition(":")[0] for name in _METADATA_VARIABLES)}
        # requests asks for the proxy of a host before that of a scheme; an empty one is none.
        session.proxies.update({f"http://{host}": "" for host in hosts if host})
        super().__init__(session)

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: Any = _ANSWER_SECONDS,
        **kwargs: Any,
    ) -> Any:
        asked = super().__call__
        return asked(url, method=method, body=body, headers=headers, timeout=timeout, **kwargs)  # type: ignore[no-untyped-call]


def _aware(moment: datetime) -> datetime:
    """google-auth's times are UTC without saying so."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _no_token(error: google.auth.exceptions.GoogleAuthError) -> CredentialsError:
    """The texts of google-auth are not used: they quote what was sent and answered."""
    if getattr(error, "retryable", False) or any(
        isinstance(inner, google.auth.exceptions.TransportError) for inner in _inside(error)
    ):
        return CredentialsError("Google's token endpoint does not answer", Failure.TOKEN)
    return CredentialsError(
        "Google refuses a token for our credentials: check the key file, and whether the account is still there"
    )


def _inside(error: BaseException) -> Iterator[object]:
    """The exception and those that it was raised for or with."""
    inner: BaseException | None = error
    for _ in range(6):
        if inner is None:
            return
        yield inner
        yield from inner.args
        inner = inner.__cause__ or inner.__context__
