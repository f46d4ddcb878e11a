"""Why a request got no answer, by what requests and urllib3 raise; and when to come again, by what an answer says.

Pure: exceptions and header values in, words and numbers out.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
import urllib3
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ReadTimeoutError

from uploader.verdict import Answer, Failure

FILE_GONE = Answer(
    failure=Failure.SETUP,
    detail=f"{Failure.SETUP.value} (a file that is named in [destination] cannot be read)",
)
"""For an OSError: requests looks for certificate files before it connects, and raises this if one is gone."""

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
    (ConnectTimeoutError, Failure.CONNECT),
    (ReadTimeoutError, Failure.TIMEOUT),
    # The peer is there and takes no more bytes: to try again within seconds would only hold a thread longer.
    (TimeoutError, Failure.TIMEOUT),
    # The end of the connection, not of the agreement on TLS: it is how a reset or a crash looks through TLS.
    (ssl.SSLEOFError, Failure.BROKEN),
    (ssl.SSLZeroReturnError, Failure.BROKEN),
    (ssl.SSLCertVerificationError, Failure.CERTIFICATE),  # of a proxy, too
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


def failed(error: Exception) -> Answer:
    """The answer that stands for an exception."""
    failure = classify(error)
    return Answer(failure=failure, detail=f"{failure.value} ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """What may be said of an exception.

    The exception's own text is not used: it can quote what was sent, credentials in a proxy's URL among it.
    """
    reason = type(error).__name__
    for inner in _inside(error):
        if isinstance(inner, NameResolutionError):
            reason = "the host name does not resolve"
            break
        if isinstance(inner, ssl.SSLCertVerificationError):
            reason = f"certificate: {inner.verify_message}"
            break
        if isinstance(inner, TimeoutError) and not inner.strerror:
            reason = "sending stood still"
            break
        if isinstance(inner, OSError) and inner.strerror and not isinstance(inner, requests.RequestException):
            reason = inner.strerror
    return reason


def retry_after(value: str | None) -> float | None:
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
