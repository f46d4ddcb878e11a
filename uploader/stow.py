"""One Store transaction (PS3.18 10.5): the request, the tries inside it, and the answer.

Every way in which a request can end becomes an `Answer`; only a part that cannot be read (`PartError`) and a
stop of the process (`Aborted`) are raised. tenacity does the tries of one delivery, a few within seconds; long
waits are the scheduler's.
"""

import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import NameResolutionError, NewConnectionError, ReadTimeoutError

from common.config import Auth, DestinationConfig
from uploader.multipart import Body, Part
from uploader.response import parse
from uploader.verdict import Answer, Failure

# Bytes read from disk and written to the socket at a time. Each block must go out within connect_timeout_seconds,
# which urllib3 applies to sending: larger ones would shut out slow lines.
_BLOCK = 128 * 1024
_MAX_ANSWER = 16 * 1024 * 1024  # bytes of an answer that are read; a longer one is no Store Instances Response
_EXCERPT = 128 * 1024  # bytes; more than redaction looks at, so that what it shows never ends in half a value
_TRIES = 3
_TRY_WAIT_MAX = 4.0  # seconds between tries of one delivery
_TRY_AGAIN_STATUSES = frozenset((408, 425, 500, 502, 503, 504))
_HEADERS = {
    "Accept": "application/dicom+json, application/dicom+xml;q=0.8",
    "User-Agent": "Stowgate",
}


class _Adapter(HTTPAdapter):
    """An adapter without retries of its own, reading the body in large blocks."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, blocksize=_BLOCK)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **kwargs, blocksize=_BLOCK)


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class StowClient:
    """Stores instances at one destination. One requests session for each thread that calls it.

    Args:
        config: the section [destination].
        backoff_initial: seconds; the first wait between tries is at most this long.
    """

    def __init__(self, config: DestinationConfig, backoff_initial: float = 1.0) -> None:
        self._config = config
        self._url = f"{config.url}/studies"
        self._backoff_initial = backoff_initial
        self._local = threading.local()
        self._stopping = threading.Event()
        self._cut = threading.Event()

    def stop_trying(self) -> None:
        """Let requests under way end, but begin no further try."""
        self._stopping.set()

    def cut(self) -> None:
        """Break off requests that are still sending."""
        self._stopping.set()
        self._cut.set()

    def store(self, parts: Sequence[Part], *, tries: int = _TRIES) -> Answer:
        """Send the parts in one request, and again, up to `tries` times, if that may help within seconds.

        Raises:
            PartError: a file became unreadable or shorter meanwhile.
            Aborted: `cut` was called.
        """
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries) | tenacity.stop_when_event_set(self._stopping),
            wait=tenacity.wait_random_exponential(multiplier=self._backoff_initial, max=_TRY_WAIT_MAX),
            retry=tenacity.retry_if_result(_worth_another_try),
            sleep=tenacity.sleep_using_event(self._stopping),
            retry_error_callback=_last_answer,
        )
        last: Answer | None = None

        def try_once() -> Answer:
            nonlocal last
            # tenacity decides to go on before it sleeps; a stop during the sleep is noticed here.
            if last is None or not self._stopping.is_set():
                last = self._once(parts)
            return last

        return attempts(try_once)

    def _once(self, parts: Sequence[Part]) -> Answer:
        body = Body(parts, self._cut.is_set)
        config = self._config
        try:
            with self._session().post(
                self._url,
                data=body,
                headers={"Content-Type": body.content_type},
                timeout=(config.connect_timeout_seconds, config.read_timeout_seconds),
                allow_redirects=False,  # a redirected POST becomes a GET that answers 200 and stores nothing
                stream=True,
            ) as response:
                return self._answer(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return _failed(error)
        except OSError:
            # requests looks for certificate files before it connects, and raises this if one is gone.
            reason = "a file that is named in [destination] cannot be read"
            return Answer(failure=Failure.SETUP, detail=f"{Failure.SETUP.value} ({reason})")

    def _answer(self, response: requests.Response) -> Answer:
        status = response.status_code
        try:
            content, whole = self._read(response)
        except urllib3.exceptions.DecodeError:
            content, whole = b"", False
        parsed = parse(content, response.headers.get("Content-Type", "")) if whole and content else None
        return Answer(
            status=status,
            response=parsed,
            retry_after=_retry_after(response.headers.get("Retry-After")),
            excerpt=content[:_EXCERPT].decode("utf-8", "replace"),
            detail=f"HTTP {status}",
        )

    def _read(self, response: requests.Response) -> tuple[bytes, bool]:
        """The decoded body up to a limit, and whether that is all of it."""
        deadline = time.monotonic() + self._config.read_timeout_seconds
        content = bytearray()
        # Not iter_content: it waits for a whole chunk, and a peer that trickles would not meet the deadline.
        while chunk := response.raw.read1(64 * 1024, decode_content=True):
            content += chunk
            if len(content) > _MAX_ANSWER:
                return bytes(content[:_EXCERPT]), False
            if time.monotonic() > deadline:
                raise requests.exceptions.ReadTimeout
        return bytes(content), True

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = new_session(self._config)
        return session


def new_session(config: DestinationConfig) -> requests.Session:
    """A session as the section [destination] says, and nothing from the environment, netrc or elsewhere."""
    session = requests.Session()
    session.trust_env = False
    session.headers.update(_HEADERS)
    adapter = _Adapter(max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.verify = str(config.ca_bundle) if config.ca_bundle else True
    if config.client_certificate:
        certificate = str(config.client_certificate)
        session.cert = (certificate, str(config.client_key)) if config.client_key else certificate
    if config.proxy:
        session.proxies = {"http": config.proxy, "https": config.proxy}
    if config.auth is Auth.BASIC:
        # Bytes, since requests would encode text as Latin-1; RFC 7617 2.1 has UTF-8.
        session.auth = HTTPBasicAuth(config.username.encode("utf-8"), config.password.encode("utf-8"))
    elif config.auth is Auth.BEARER:
        session.auth = _Bearer(config.token)
    return session


def _worth_another_try(answer: Answer) -> bool:
    if answer.status is None:
        return answer.failure in {Failure.CONNECT, Failure.BROKEN, Failure.PROXY}
    return answer.status in _TRY_AGAIN_STATUSES and answer.retry_after is None


def _last_answer(state: tenacity.RetryCallState) -> Answer:
    outcome = state.outcome
    if outcome is None:
        raise AssertionError("tenacity gives up only after a try")
    answer: Answer = outcome.result()
    return answer


# By class, most special first. Every exception of requests.exceptions is found here (a test sees to it).
_FAILURES: tuple[tuple[type[requests.RequestException], Failure], ...] = (
    (requests.exceptions.ConnectTimeout, Failure.CONNECT),
    (requests.exceptions.ReadTimeout, Failure.TIMEOUT),
    (requests.exceptions.Timeout, Failure.TIMEOUT),
    (requests.exceptions.SSLError, Failure.CERTIFICATE),
    (requests.exceptions.ProxyError, Failure.PROXY),
    (requests.exceptions.ConnectionError, Failure.BROKEN),
    (requests.exceptions.ChunkedEncodingError, Failure.BROKEN),
    (requests.exceptions.ContentDecodingError, Failure.BROKEN),
    (requests.exceptions.StreamConsumedError, Failure.BROKEN),
    (requests.exceptions.RetryError, Failure.BROKEN),
    (requests.exceptions.HTTPError, Failure.BROKEN),
    (requests.exceptions.TooManyRedirects, Failure.SETUP),
    (requests.exceptions.InvalidURL, Failure.SETUP),
    (requests.exceptions.InvalidSchema, Failure.SETUP),
    (requests.exceptions.MissingSchema, Failure.SETUP),
    (requests.exceptions.URLRequired, Failure.SETUP),
    (requests.exceptions.InvalidHeader, Failure.SETUP),
    (requests.exceptions.UnrewindableBodyError, Failure.BROKEN),
    (requests.exceptions.JSONDecodeError, Failure.BROKEN),
    (requests.exceptions.InvalidJSONError, Failure.BROKEN),
)


# By what is inside a ConnectionError of requests, or comes from urllib3 without one; before the classes above.
_CAUSES: tuple[tuple[type[BaseException], Failure], ...] = (
    (NewConnectionError, Failure.CONNECT),
    (ReadTimeoutError, Failure.TIMEOUT),
    # The end of the connection, not of the agreement on TLS: it is how a reset or a crash looks through TLS.
    (ssl.SSLEOFError, Failure.BROKEN),
    (ssl.SSLZeroReturnError, Failure.BROKEN),
)


def classify(error: Exception) -> Failure:
    """Why a request got no answer, by the exception of requests or urllib3 that says so."""
    if isinstance(error, requests.exceptions.ConnectionError | urllib3.exceptions.HTTPError):
        for kind, failure in _CAUSES:
            if any(isinstance(inner, kind) for inner in _inside(error)):
                return failure
    return next((failure for kind, failure in _FAILURES if isinstance(error, kind)), Failure.BROKEN)


def _inside(error: BaseException) -> Iterator[object]:
    """The exception and what requests and urllib3 wrapped in it, outermost first."""
    inner: object = error
    for _ in range(6):
        yield inner
        reason = getattr(inner, "reason", None)
        if not isinstance(reason, BaseException):
            arguments = getattr(inner, "args", ())
            reason = next((argument for argument in arguments if isinstance(argument, BaseException)), None)
            reason = reason or getattr(inner, "__cause__", None)
        if reason is None:
            return
        inner = reason


def _failed(error: Exception) -> Answer:
    """The answer that stands for an exception.

    The exception's own text is not used: it can quote what was sent, credentials in a proxy's URL among it.
    """
    failure = classify(error)
    reason = type(error).__name__
    for inner in _inside(error):
        if isinstance(inner, NameResolutionError):
            reason = "the host name does not resolve"
            break
        if isinstance(inner, ssl.SSLCertVerificationError):
            reason = f"certificate: {inner.verify_message}"
            break
        if isinstance(inner, OSError) and inner.strerror and not isinstance(inner, requests.RequestException):
            reason = inner.strerror
    return Answer(failure=failure, detail=f"{failure.value} ({reason})")


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 10.2.3); None if there is none that can be read."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
