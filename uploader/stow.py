"""One Store transaction (PS3.18 10.5): the request, the tries inside it, and the answer.

Every way in which a request can end becomes an `Answer`; only a part that cannot be read (`PartError`) and a
stop of the process (`Aborted`) are raised. tenacity does the tries of one delivery, a few within seconds; long
waits are the scheduler's.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import requests
import tenacity
import urllib3

from common.config import DestinationConfig
from uploader.authentication import authentication_of
from uploader.failures import FILE_GONE, failed, retry_after
from uploader.multipart import Aborted, Body, Part
from uploader.progress import Progress
from uploader.response import parse
from uploader.session import concealed, new_session, secrets_of
from uploader.tokens import CredentialsError
from uploader.verdict import Answer, Failure

_MAX_ANSWER = 16 * 1024 * 1024  # bytes of an answer that are read; a longer one is no Store Instances Response
_EXCERPT = 128 * 1024  # bytes; more than redaction looks at, so that what it shows never ends in half a value
_TRIES = 3
_TRY_WAIT_MAX = 4.0  # seconds between tries of one delivery
_TRY_AGAIN_STATUSES = frozenset((408, 425, 500, 502, 503, 504))
_ACCEPT = "application/dicom+json, application/dicom+xml;q=0.8"

T = TypeVar("T")
Read = Callable[[int], bytes]
"""Gives at most so many bytes of a body, at least one; none only at its end."""
_Asked = tuple[T | Answer, requests.PreparedRequest | None]
"""What a request came to, and the request as it went out, if it was answered."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a request for nothing in particular came to; the header fields are empty where there is no answer."""

    answer: Answer
    content_type: str = ""
    allow: str = ""


class StowClient:
    """Stores instances at one destination. One requests session for each thread that calls it.

    Args:
        config: the section [destination].
        backoff_initial: seconds; the first wait between tries is at most this long.
        progress: is told of the requests under way.
    """

    def __init__(
        self, config: DestinationConfig, backoff_initial: float = 1.0, progress: Progress | None = None
    ) -> None:
        self._config = config
        self._authentication = authentication_of(config)
        self._progress = progress or Progress()
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

        A single try, which is a probe, has a connection of its own: one from before an outage may be a dead one that
        nobody closed, and would say that the destination is away when it is back.

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
        if tries == 1:
            self._session().close()  # of its idle connections; the session opens another one

        def try_once() -> Answer:
            nonlocal last
            # tenacity decides to go on before it sleeps; a stop during the sleep is noticed here.
            if last is None or not self._stopping.is_set():
                last = self._once(parts)
            return last

        return attempts(try_once)

    def get(
        self,
        path: str,
        accept: str,
        read: Callable[[requests.Response, Read], T],
        *,
        again: Callable[[T | Answer], bool],
    ) -> T | Answer:
        """Ask for what is at a path below the service, with the session, the credentials and the timeouts of storing.

        Args:
            path: relative to the URL of the service, with its query.
            accept: the media types.
            read: makes something of a 200, whose body it reads by the function that it is given.
            again: whether to ask again within seconds, though nothing failed.

        Returns:
            What `read` returned, or the answer if it was no 200, or there was none.

        Raises:
            Aborted: `cut` was called.
            PartError: `read` met one.
        """
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES) | tenacity.stop_when_event_set(self._stopping),
            wait=tenacity.wait_random_exponential(multiplier=self._backoff_initial, max=_TRY_WAIT_MAX),
            retry=tenacity.retry_if_result(
                lambda got: again(got) or (isinstance(got, Answer) and _worth_another_try(got))
            ),
            sleep=tenacity.sleep_using_event(self._stopping),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        last: T | Answer | None = None

        def try_once() -> T | Answer:
            nonlocal last
            if last is None or not self._stopping.is_set():
                last = self._with_credentials(lambda: self._get_once(path, accept, read))
            return last

        return attempts(try_once)

    def ask(self, method: str, path: str, accept: str) -> Heard:
        """Make one request without a body, once, with the session, the credentials and the timeouts of storing.

        Args:
            method: such as OPTIONS.
            path: relative to the URL of the service, with its query.
            accept: the media types.
        """
        fields: dict[str, str] = {}

        def ask_once() -> _Asked[Answer]:
            config = self._config
            try:
                with self._session().request(
                    method,
                    config.url + path,
                    headers={"Accept": accept},
                    timeout=(config.connect_timeout_seconds, config.read_timeout_seconds),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    fields.update({name.lower(): value for name, value in response.headers.items()})
                    return self._answer(response), response.request
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                return failed(error), None
            except OSError:
                return FILE_GONE, None

        answer = self._with_credentials(ask_once)
        return Heard(answer, fields.get("content-type", ""), fields.get("allow", ""))

    def _get_once(self, path: str, accept: str, read: Callable[[requests.Response, Read], T]) -> _Asked[T]:
        config = self._config
        try:
            with self._session().get(
                config.url + path,
                headers={"Accept": accept, "Accept-Encoding": "identity"},  # pixels do not deflate, and it costs both
                timeout=(config.connect_timeout_seconds, config.read_timeout_seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    return self._answer(response), response.request
                return read(response, lambda length: self._read_some(response, length)), response.request
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return failed(error), None
        except OSError:
            return FILE_GONE, None

    def _read_some(self, response: requests.Response, length: int) -> bytes:
        if self._cut.is_set():
            raise Aborted
        some: bytes = response.raw.read1(length, decode_content=True)
        return some

    def _once(self, parts: Sequence[Part]) -> Answer:
        return self._with_credentials(lambda: self._watched(parts))

    def _watched(self, parts: Sequence[Part]) -> _Asked[Answer]:
        with self._progress.request(parts[0].name, len(parts)) as moved:
            return self._post(Body(parts, self._cut.is_set, moved))

    def _with_credentials(self, ask: Callable[[], _Asked[T]]) -> T | Answer:
        """What a request came to; a 401 is believed when there are no other credentials, or those are refused too."""
        try:
            answer, request = ask()
            refused = isinstance(answer, Answer) and answer.status == HTTPStatus.UNAUTHORIZED
            if refused and not self._stopping.is_set() and request is not None and self._authentication.renew(request):
                answer, _ = ask()
        except CredentialsError as error:
            detail = f"{error.failure.value} ({error})"
            return Answer(failure=error.failure, retry_after=error.retry_after, detail=detail)
        return answer

    def _post(self, body: Body) -> _Asked[Answer]:
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
                return self._answer(response), response.request
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return failed(error), None
        except OSError:
            return FILE_GONE, None

    def _answer(self, response: requests.Response) -> Answer:
        status = response.status_code
        try:
            content, whole = self._read(response)
        except urllib3.exceptions.DecodeError:
            content, whole = b"", False
        excerpt = content[:_EXCERPT].decode("utf-8", "replace")
        parsed = parse(content, response.headers.get("Content-Type", "")) if whole and content else None
        return Answer(
            status=status,
            response=parsed,
            retry_after=retry_after(response.headers.get("Retry-After")),
            excerpt=concealed(excerpt, secrets_of(self._config, response.request)),
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
            session.headers.update({"Accept": _ACCEPT, **dict(self._config.headers)})
            session.auth = self._authentication
        return session


def _worth_another_try(answer: Answer) -> bool:
    if answer.status is None:
        again = {Failure.CONNECT, Failure.BROKEN, Failure.PROXY, Failure.TOKEN}
        return answer.failure in again and answer.retry_after is None
    return answer.status in _TRY_AGAIN_STATUSES and answer.retry_after is None


def _last_answer(state: tenacity.RetryCallState) -> Answer:
    outcome = state.outcome
    if outcome is None:
        raise AssertionError("tenacity gives up only after a try")
    answer: Answer = outcome.result()
    return answer
