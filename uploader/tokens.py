"""One token for all delivery threads: fetched once, renewed before it expires, and once more when it is refused.

Where a token comes from is its source's; here is when it is fetched. One thread fetches at a time:

- Without a token, or with one that has expired, the others wait for what that one gets. If it gets none, all who
  waited get none: the token endpoint is not asked once for each thread.
- Shortly before a token expires, one thread fetches the next one, and the others go on with what they have. If that
  fails, the token is used as long as it is good, and the next one is asked for every few seconds.
- A token that the destination refuses is replaced once, however many threads it was refused to.

Nothing is fatal: no token is trouble of the destination, and says whether a person must put it right.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from common import logs
from common.errors import StowgateError
from uploader.verdict import Failure

log = logs.get(__name__)

# Before a token expires it is renewed: the destination looks at it when the request has arrived, which may be long
# after it was begun. A quarter of the lifetime at most, so that short-lived tokens are used at all.
_MARGIN = 300.0
_MARGIN_PART = 0.25
_RETRY_SECONDS = 5.0  # between tries to renew a token that is still good
_LOG_SECONDS = 60.0  # the same complaint at most once in so long


class CredentialsError(StowgateError):
    """There are no credentials to show the destination. The text is safe for a log.

    Attributes:
        failure: TOKEN if it may pass by itself; SETUP, CERTIFICATE or PROXY if a person must put it right.
        retry_after: seconds that the token endpoint asks to wait; None if it does not.
    """

    def __init__(self, detail: str, failure: Failure = Failure.SETUP, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.failure = failure
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token as it was issued.

    Attributes:
        value: what stands in the Authorization header.
        lifetime: seconds from when it was asked for; None if nobody said.
    """

    value: str = field(repr=False)
    lifetime: float | None


@dataclass(frozen=True, slots=True)
class _Held:
    value: str = field(repr=False)
    renew_at: float
    expires_at: float


class TokenProvider:
    """Holds the token; safe to call from several threads at once.

    Args:
        fetch: gets a new token, or raises CredentialsError.
        monotonic: the clock, in seconds.
    """

    def __init__(self, fetch: Callable[[], Token], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._fetching = threading.Lock()
        # Replaced whole, so that it can be read without the lock.
        self._held: _Held | None = None
        self._fetches = 0
        self._failure: CredentialsError | None = None
        self._complaints = logs.OncePer(_LOG_SECONDS, monotonic)

    def token(self) -> str:
        """The token to use now.

        Raises:
            CredentialsError: there is none.
        """
        held, now = self._held, self._monotonic()
        if held is None or now >= held.expires_at:
            return self._replace(held).value
        if now >= held.renew_at:
            self._renew_early(held)
            held = self._held or held
        return held.value

    def renew(self, refused: str) -> bool:
        """Whether there is another token than this one, which the destination refused; fetched if need be.

        Raises:
            CredentialsError: there is none.
        """
        held = self._held
        if held is not None and held.value != refused:
            return True
        return self._replace(held).value != refused

    def _replace(self, old: _Held | None) -> _Held:
        """What comes in the place of `old`: fetched by this thread, or by another one while this one waited."""
        fetches = self._fetches
        with self._fetching:
            held = self._held
            if held is not None and held is not old:
                return held
            if self._failure is not None and self._fetches != fetches:
                raise CredentialsError(str(self._failure), self._failure.failure, self._failure.retry_after)
            return self._fetch_now()

    def _renew_early(self, old: _Held) -> None:
        if not self._fetching.acquire(blocking=False):
            return
        try:
            if self._held is old:
                self._fetch_now()
        except CredentialsError as error:
            self._held = replace(old, renew_at=self._monotonic() + _RETRY_SECONDS)
            if self._complaints.ready(str(error)):
                log.warning("token not renewed yet, the present one is still good", reason=str(error))
        finally:
            self._fetching.release()

    def _fetch_now(self) -> _Held:
        asked = self._monotonic()
        try:
            token = self._fetch()
        except CredentialsError as error:
            self._failure = error
            raise
        else:
            self._failure = None
        finally:
            self._fetches += 1
        lifetime = float("inf") if token.lifetime is None else max(0.0, token.lifetime)
        margin = min(_MARGIN, lifetime * _MARGIN_PART)
        self._held = _Held(token.value, asked + lifetime - margin, asked + lifetime)
        return self._held
