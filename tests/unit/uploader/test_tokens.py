"""When a token is fetched: once for all threads, before it expires, and once when it is refused."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from uploader.tokens import CredentialsError, Token, TokenProvider
from uploader.verdict import Failure


class Source:
    """Numbered tokens, or errors, with a clock that tests move.

    Attributes:
        lifetime: of the tokens that are fetched from now on.
        error: raised instead of giving a token.
    """

    def __init__(self, lifetime: float | None = 1000.0) -> None:
        self.now = 0.0
        self.lifetime = lifetime
        self.error: CredentialsError | None = None
        self.fetches = 0
        self.before: Callable[[], object] = lambda: None
        self.provider = TokenProvider(self.fetch, lambda: self.now)

    def fetch(self) -> Token:
        """The next token."""
        self.fetches += 1
        number = self.fetches
        self.before()
        if self.error is not None:
            raise self.error
        return Token(f"token{number}", self.lifetime)


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """What so many threads get that begin together; an exception counts as what they get."""
    begin = threading.Barrier(count)
    results: list[Any] = []

    def run() -> None:
        begin.wait(10)
        try:
            results.append(work())
        except CredentialsError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_threads_that_need_a_token_share_one_fetch() -> None:
    """Eight threads without a token get the same one, for one fetch."""
    source = Source()
    source.before = lambda: threading.Event().wait(0.1)
    assert at_once(8, source.provider.token) == ["token1"] * 8
    assert source.fetches == 1


def test_a_token_is_kept_while_it_is_good() -> None:
    """Nothing is fetched until the margin before the expiry begins."""
    source = Source(lifetime=3600)
    for source.now in (0.0, 1.0, 1800.0, 3299.0):
        assert source.provider.token() == "token1"
    assert source.fetches == 1


@pytest.mark.parametrize(("lifetime", "renewed_at"), [(3600, 3300), (1200, 900), (100, 75), (10, 7.5)])
def test_a_token_is_renewed_before_it_expires(lifetime: float, renewed_at: float) -> None:
    """Five minutes, or a quarter of the lifetime, before the end the next token is fetched."""
    source = Source(lifetime)
    assert source.provider.token() == "token1"
    source.now = renewed_at - 0.1
    assert source.provider.token() == "token1"
    source.now = renewed_at
    assert source.provider.token() == "token2"


def test_the_lifetime_counts_from_when_it_was_asked_for() -> None:
    """A token endpoint that takes its time does not make a token look younger than it is."""
    source = Source(lifetime=100)

    def take_time() -> None:
        source.now += 60

    source.before = take_time
    source.provider.token()
    source.now = 74.9
    assert source.provider.token() == "token1"
    source.now = 75.0
    assert source.provider.token() == "token2"


def test_a_token_of_unknown_lifetime_is_used_until_it_is_refused() -> None:
    """Without expires_in, nothing but a refusal renews a token."""
    source = Source(lifetime=None)
    assert source.provider.token() == "token1"
    source.now = 1e9
    assert source.provider.token() == "token1"
    assert source.provider.renew("token1")
    assert source.provider.token() == "token2"


@pytest.mark.parametrize("lifetime", [0.0, -5.0])
def test_a_token_without_a_lifetime_is_used_once(lifetime: float) -> None:
    """A token that is said to have expired already is still tried, and the next request asks again."""
    source = Source(lifetime)
    assert source.provider.token() == "token1"
    assert source.provider.token() == "token2"


def test_a_good_token_is_used_while_another_thread_renews_it() -> None:
    """Within the margin one thread fetches; the others do not wait for it."""
    source = Source(lifetime=100)
    source.provider.token()
    fetching, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        fetching.set()
        go_on.wait(10)

    source.before = slowly
    source.now = 80
    results: list[str] = []
    renewing = threading.Thread(target=lambda: results.append(source.provider.token()))
    renewing.start()
    assert fetching.wait(10)
    assert source.provider.token() == "token1"
    go_on.set()
    renewing.join(10)
    assert results == ["token2"]
    assert source.provider.token() == "token2"
    assert source.fetches == 2


def test_a_token_that_cannot_be_renewed_is_used_as_long_as_it_is_good() -> None:
    """An early renewal that fails harms nothing, and is tried again seconds later, not with every request."""
    source = Source(lifetime=100)
    source.provider.token()
    source.error = CredentialsError("away", Failure.TOKEN)
    source.now = 80
    for _ in range(10):
        assert source.provider.token() == "token1"
    assert source.fetches == 2
    source.now = 86
    assert source.provider.token() == "token1"
    assert source.fetches == 3
    source.now = 100
    with pytest.raises(CredentialsError, match="away"):
        source.provider.token()
    source.error = None
    assert source.provider.token() == "token5"


def test_a_renewal_that_fails_is_said_once_a_minute(lines: Callable[[str], list[dict[str, Any]]]) -> None:
    """While the token is still good, the complaint comes at most once a minute, with its reason."""
    source = Source(lifetime=1000)
    source.provider.token()
    source.error = CredentialsError("away", Failure.TOKEN)
    for source.now in range(760, 880, 2):
        assert source.provider.token() == "token1"
    assert source.fetches > 10
    assert [line["reason"] for line in lines("token not renewed yet, the present one is still good")] == ["away"] * 2


def test_a_failure_is_shared_by_those_who_waited_for_it() -> None:
    """Eight threads without a token ask once; each learns the failure with its kind and its Retry-After."""
    source = Source()
    source.error = CredentialsError("away", Failure.TOKEN, 7.0)
    begun = threading.Barrier(8)

    def ask() -> str:
        begun.wait(10)
        return source.provider.token()

    source.before = lambda: threading.Event().wait(0.3)
    results = at_once(8, ask)
    assert [(str(one), one.failure, one.retry_after) for one in results] == [("away", Failure.TOKEN, 7.0)] * 8
    assert source.fetches == 1


def test_a_failure_is_not_remembered() -> None:
    """Who comes after a failure asks again."""
    source = Source()
    source.error = CredentialsError("away", Failure.TOKEN)
    with pytest.raises(CredentialsError):
        source.provider.token()
    source.error = None
    assert source.provider.token() == "token2"


def test_a_token_refused_to_many_is_replaced_once() -> None:
    """However many threads were refused one token, one new one is fetched for all of them."""
    source = Source()
    source.provider.token()
    source.before = lambda: threading.Event().wait(0.1)
    assert at_once(8, lambda: source.provider.renew("token1")) == [True] * 8
    assert source.fetches == 2
    assert source.provider.token() == "token2"


def test_a_late_refusal_of_an_old_token_fetches_nothing() -> None:
    """A thread that is refused a token which was replaced meanwhile takes the new one."""
    source = Source()
    source.provider.token()
    assert source.provider.renew("token1")
    assert source.provider.renew("token1")
    assert source.fetches == 2


def test_the_same_token_again_is_no_other_one() -> None:
    """A source that gives the refused token once more leaves the refusal standing."""
    provider = TokenProvider(lambda: Token("same", 100.0), lambda: 0.0)
    provider.token()
    assert not provider.renew("same")


def test_no_token_is_in_a_repr() -> None:
    """Neither the token nor what holds it shows its value."""
    provider = TokenProvider(lambda: Token("s3cret", 100.0))
    provider.token()
    assert "s3cret" not in repr(Token("s3cret", 1.0)) + repr(vars(provider))
