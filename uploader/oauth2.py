"""A token by OAuth2 client credentials (RFC 6749 4.4): one request to the token endpoint, and what its answer means.

oauthlib writes the form and reads the answer; it does no I/O. The request goes through the same proxy, with the same
certificate authorities and client certificate, as those to the destination.

Temporary: no connection, no answer in time, 408, 429, 5xx, and the codes `temporarily_unavailable`, `server_error` and
`slow_down`. Anything else only a person can put right, and the text says what. Nothing that the endpoint wrote is in
it, since it may quote what we sent.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote_plus

import requests
import urllib3
from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error

from common.config import DestinationConfig
from uploader.failures import classify, reason_of, retry_after
from uploader.session import new_session
from uploader.tokens import CredentialsError, Token
from uploader.verdict import Failure

_ANSWER_SECONDS = 60.0  # an endpoint that takes longer is away; read_timeout_seconds is made for large instances
_MAX_ANSWER = 1024 * 1024

_TEMPORARY_STATUSES = frozenset((408, 425, 429))
_TEMPORARY_ERRORS = frozenset(("temporarily_unavailable", "server_error", "slow_down"))
_CREDENTIALS = "check oauth2_client_id and oauth2_client_secret in [destination]"
_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "invalid_client": _CREDENTIALS,
        "unauthorized_client": "the authorization server must allow this client the client credentials grant",
        "unsupported_grant_type": "the authorization server must support the client credentials grant",
        "invalid_scope": "check oauth2_scope in [destination]",
        "access_denied": "the authorization server must give this client access to the archive; check oauth2_scope",
        "invalid_grant": _CREDENTIALS,
        "invalid_request": "check oauth2_token_url, oauth2_client_id and oauth2_scope in [destination]",
        "invalid_target": "check oauth2_scope in [destination]",
    }
)
# There are servers that take the credentials in one way only, and say so with one of these.
_PERHAPS_THE_OTHER_WAY = frozenset(("invalid_client", "invalid_request", "unauthorized_client", ""))


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer of the token endpoint. `error`: its code, "" if it gives none that we know; None for a token."""

    status: int
    error: str | None
    params: Mapping[str, Any]
    retry_after: float | None


class ClientCredentials:
    """Fetches tokens for one client; for one thread at a time.

    The credentials go into the Authorization header, which every server must support (RFC 6749 2.3.1); if that is
    refused, into the form, once. What worked is done again.

    Args:
        config: the section [destination].
    """

    def __init__(self, config: DestinationConfig) -> None:
        self._config = config
        self._client = BackendApplicationClient(config.oauth2_client_id)
        self._session: requests.Session | None = None
        self._in_form = False

    def fetch(self) -> Token:
        """Get a new token.

        Raises:
            CredentialsError: there is none.
        """
        answered = self._ask(in_form=self._in_form)
        if answered.status in {400, 401} and answered.error in _PERHAPS_THE_OTHER_WAY:
            other = self._ask(in_form=not self._in_form)
            if other.error is None:
                self._in_form = not self._in_form
            # Of two refusals the one that tells more: the other way may just not be understood.
            answered = answered if other.error in {"invalid_request", ""} else other
        if answered.error is not None:
            raise _refusal(answered)
        return _token(answered.params)

    def _ask(self, *, in_form: bool) -> _Answered:
        config = self._config
        credentials = {"client_secret": config.oauth2_client_secret} if in_form else {}
        form = self._client.prepare_request_body(include_client_id=in_form, scope=config.oauth2_scope, **credentials)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if not in_form:
            headers["Authorization"] = basic(config.oauth2_client_id, config.oauth2_client_secret)
        if self._session is None:
            self._session = new_session(config)
        seconds = min(_ANSWER_SECONDS, config.read_timeout_seconds)
        try:
            with self._session.post(
                config.oauth2_token_url,
                data=form,
                headers=headers,
                timeout=(config.connect_timeout_seconds, seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = _read(response, seconds)
                return self._understood(response, content)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _no_answer(error) from None
        except OSError:
            raise CredentialsError("a file that is named in [destination] cannot be read") from None

    def _understood(self, response: requests.Response, content: bytes) -> _Answered:
        wait = retry_after(response.headers.get("Retry-After"))
        try:
            # Nothing but an object is a token or an error; oauthlib would read a form too, and a page as one.
            json.loads(content).items()
            params = self._client.parse_request_body_response(content.decode("utf-8"))
        except OAuth2Error as error:
            code = str(error.error)
            known = code if code in _ADVICE or code in _TEMPORARY_ERRORS else ""
            return _Answered(response.status_code, known, {}, wait)
        except (ValueError, TypeError, AttributeError, Warning):
            return _Answered(response.status_code, "", {}, wait)
        return _Answered(response.status_code, None if response.status_code == 200 else "", params, wait)


def basic(client_id: str, client_secret: str) -> str:
    """The Authorization header of a client (RFC 6749 2.3.1): both are written as in a form before they are joined."""
    joined = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(joined.encode("ascii")).decode("ascii")


def _read(response: requests.Response, seconds: float) -> bytes:
    """The body; at most a megabyte of it, within so many seconds."""
    deadline = time.monotonic() + seconds
    content = bytearray()
    while len(content) <= _MAX_ANSWER and (chunk := response.raw.read1(64 * 1024, decode_content=True)):
        content += chunk
        if time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout
    return bytes(content)


def _token(params: Mapping[str, Any]) -> Token:
    """The token in a good answer."""
    kind = params.get("token_type") or "Bearer"
    if str(kind).lower() != "bearer":
        raise CredentialsError("the token endpoint gives no bearer token: check oauth2_token_url in [destination]")
    value, lifetime = params["access_token"], params.get("expires_in")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value or " " in value:
        raise CredentialsError("the token endpoint gives a token that fits no header: check oauth2_token_url")
    return Token(value, None if lifetime is None else float(lifetime))


def _no_answer(error: Exception) -> CredentialsError:
    failure = classify(error)
    detail = f"the token endpoint: {failure.value} ({reason_of(error)})"
    lasting = failure in {Failure.CERTIFICATE, Failure.PROXY, Failure.SETUP}
    return CredentialsError(detail, failure if lasting else Failure.TOKEN)


def _refusal(answered: _Answered) -> CredentialsError:
    status, error = answered.status, answered.error
    what = f"the token endpoint answers HTTP {status}" + (f" {error}" if error else "")
    if status >= 500 or status in _TEMPORARY_STATUSES or error in _TEMPORARY_ERRORS:
        return CredentialsError(what, Failure.TOKEN, answered.retry_after)
    if error:
        return CredentialsError(f"{what}: {_ADVICE[error]}")
    if status in {400, 401, 403}:
        return CredentialsError(f"{what}: {_CREDENTIALS}")
    if status == 407:
        return CredentialsError(f"{what}: the proxy does not accept our credentials: check proxy in [destination]")
    return CredentialsError(f"{what} and no token: check oauth2_token_url in [destination]")
