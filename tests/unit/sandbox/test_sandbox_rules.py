import re

import pytest

from sandbox.errors import RuleError
from sandbox.media import Media
from sandbox.rulebook import RuleBook
from sandbox.rules import Answer, Drop, Exists, On, Rule, parse_rule, rule_from

RULES = {
    "status=503": Rule(status=503),
    "every=3,status=503,retry_after=120,body=busy": Rule(every=3, status=503, retry_after="120", body="busy"),
    "status=302,location=http://x/?a=b": Rule(status=302, location="http://x/?a=b"),
    " first=1 , drop=before ": Rule(first=1, drop=Drop.BEFORE),
    "uid=1.2.3,drop=during": Rule(uid="1.2.3", drop=Drop.DURING),
    "fail=0xA700": Rule(fail=0xA700),
    "fail=45070": Rule(fail=45070),
    "fail=0x111,fail_unnamed=1": Rule(fail=0x0111, fail_unnamed=True),
    "warn=0xB000,delay=0.25": Rule(warn=0xB000, delay=0.25),
    "answer=json-garbage": Rule(answer=Answer.GARBAGE),
    "media=xml,hang=2": Rule(media=Media.XML, hang=2),
    "min_instances=2,status=413,store=yes": Rule(min_instances=2, status=413, store=True),
    "min_bytes=1000000,status=413": Rule(min_bytes=1_000_000, status=413),
    "min_requests=3,status=429": Rule(min_requests=3, status=429),
    "drop=after,fail=0xA700,uid=1.2.3": Rule(drop=Drop.AFTER, fail=0xA700, uid="1.2.3"),
    "on=search,status=503": Rule(on=On.SEARCH, status=503),
    "on=retrieve,drop=before": Rule(on=On.RETRIEVE, drop=Drop.BEFORE),
    "exists=refuse,fail=45070": Rule(exists=Exists.REFUSE, fail=45070),
    "exists=keep,status=202": Rule(exists=Exists.KEEP, status=202),
}


@pytest.mark.parametrize(("text", "rule"), RULES.items())
def test_a_rule_is_read_from_text_and_from_its_own_json(text: str, rule: Rule) -> None:
    """The text form gives the rule, and what the rule shows of itself gives it again."""
    assert parse_rule(text) == rule
    assert rule_from(rule.as_dict()) == rule


def test_json_gives_what_text_cannot() -> None:
    """Numbers, true and texts with a comma are fine in a JSON object."""
    said = {"status": 429, "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT", "store": True, "body": "a,b\nc"}
    assert rule_from(said) == Rule(status=429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT", store=True, body="a,b\nc")


FAULTS = {
    "on=fetch,status=503": "expected one of store, search, retrieve for on, found 'fetch'",
    "on=search": "expected an action",
    "on=search,fail=0xA700": "with on=, found another",
    "on=retrieve,drop=after": "with on=, found another",
    "on=retrieve,hang=1": "with on=, found another",
    "on=search,status=503,store=1": "with on=, found another",
    "exists=maybe": "expected one of keep, replace, refuse for exists, found 'maybe'",
    "exists=keep,drop=during": "expected exists= with drop=after",
    "": "expected key=value,key=value, found ''",
    "status": "expected key=value,key=value, found 'status'",
    "status=503,": "expected key=value,key=value, found ''",
    "statsu=503": "expected a key out of every, first, uid, ",
    "status=503,status=504": "expected status once, found it twice",
    "status=99": "expected an HTTP status from 200 to 599 for status, found '99'",
    "status=busy": "expected an HTTP status from 200 to 599 for status, found 'busy'",
    "every=0,status=503": "expected a whole number from 1 for every, found '0'",
    "first=-1,status=503": "expected a whole number from 1 for first, found '-1'",
    "min_instances=x,status=503": "expected a whole number from 1 for min_instances, found 'x'",
    "uid=../x,status=503": "expected a SOP Instance UID for uid, found '../x'",
    "delay=-1": "expected seconds from 0 to 86400 for delay, found '-1'",
    "delay=nan": "expected seconds from 0 to 86400 for delay, found 'nan'",
    "hang=inf": "expected seconds from 0 to 86400 for hang, found 'inf'",
    "fail=A700": "expected 0x and up to four hexadecimal digits (0xA700) or a decimal number for fail, found 'A700'",
    "fail=0xA7000": "for fail, found '0xA7000'",
    "fail=0b1": "for fail, found '0b1'",
    "fail=1_0": "for fail, found '1_0'",
    "fail=0111": "for fail, found '0111'",
    "fail=70000": "for fail, found '70000'",
    "fail=0x0": "for fail, found '0x0'",
    "drop=sometimes": "expected one of before, during, after for drop, found 'sometimes'",
    "answer=wrong": "expected one of empty, html, truncated, json-garbage, omit for answer, found 'wrong'",
    "media=csv": "expected json or xml for media, found 'csv'",
    "status=503,store=maybe": "expected 1 or 0 for store, found 'maybe'",
    "status=302,location=a\r\nSet-Cookie: b": "expected a text on one line for location",
    "every=3": "expected an action",
    "uid=1.2.3,first=1,store=0": "expected an action",
    "body=x,delay=1": "expected status= with body",
    "store=1": "expected status= with body, retry_after, location or store",
    "drop=after,status=503": "expected drop= without status",
    "drop=during,fail=0xA700": "expected fail, fail_unnamed or warn with drop=after",
    "drop=before,uid=1.2.3": "found drop=before",
    "drop=before,min_instances=2": "found drop=before",
    "fail=0xA700,warn=0xB000": "expected either fail or warn, found both",
    "hang=1,answer=empty": "expected hang= with an answer that can be halved",
}


@pytest.mark.parametrize(("text", "error"), FAULTS.items())
def test_a_wrong_rule_says_what_was_expected_and_found(text: str, error: str) -> None:
    """Unknown keys, values out of range and contradictions are errors that name themselves."""
    with pytest.raises(RuleError, match=re.escape(error)):
        parse_rule(text)


@pytest.mark.parametrize("said", [[], "status=503", {"status": None}, {"status": [503]}, {1: 2}])
def test_json_that_is_no_rule_is_an_error(said: object) -> None:
    """Only an object of texts, numbers, true and false is a rule."""
    with pytest.raises(RuleError, match="expected"):
        rule_from(said)


def winners(texts: list[str], posts: list[set[str]]) -> list[int | None]:
    """Play complete POSTs, each given by its UIDs, and give the number of the rule that each fell under."""
    book = RuleBook()
    for text in texts:
        book.add(parse_rule(text))
    found = [book.select().advance(uids, len(uids), complete=True) for uids in posts]
    return [active.rule_id if active else None for active in found]


HISTORIES = {
    "another transaction": (["on=search,delay=0", "on=store,delay=0"], [set()], [2]),
    "no selector": (["delay=0"], [{"1.2"}, set()], [1, 1]),
    "every": (["every=2,delay=0"], [set()] * 5, [None, 1, None, 1, None]),
    "first": (["first=2,delay=0"], [set()] * 4, [1, 1, None, None]),
    "every and first": (["every=2,first=1,delay=0"], [set()] * 4, [None, 1, None, None]),
    "uid": (["uid=1.2,delay=0"], [{"1.1"}, {"1.1", "1.2"}, set()], [None, 1, None]),
    "first counts only its own": (["uid=1.2,first=1,delay=0"], [{"1.1"}, {"1.2"}, {"1.2"}], [None, 1, None]),
    "every counts only its own": (
        ["uid=1.2,every=2,delay=0"],
        [{"1.2"}, {"1.1"}, {"1.1"}, {"1.2"}],
        [None, None, None, 1],
    ),
    "min_instances": (["min_instances=2,delay=0"], [{"1.1"}, {"1.1", "1.2"}], [None, 1]),
    "the first that fits wins": (["first=1,delay=0", "delay=0"], [set()] * 2, [1, 2]),
    "one behind counts what is let pass": (["every=2,delay=0", "every=2,delay=0"], [set()] * 4, [None, 1, 2, 1]),
}


@pytest.mark.parametrize(("texts", "posts", "expected"), HISTORIES.values(), ids=HISTORIES.keys())
def test_the_right_rule_wins(texts: list[str], posts: list[set[str]], expected: list[int | None]) -> None:
    """Selectors pick the POSTs, counts are each rule's own, the first match wins."""
    assert winners(texts, posts) == expected


def test_a_rule_for_large_or_many_requests_is_not_for_others() -> None:
    """min_bytes and min_requests are decided by the head, and who does not fit is not counted."""
    book = RuleBook()
    book.add(parse_rule("min_bytes=1000,status=413"))
    book.add(parse_rule("min_requests=3,status=429"))
    heads = [(999, 2), (1000, 3), (999, 3), (5000, 1)]
    found = [
        book.select(length=length, requests=requests).advance(set(), 1, complete=False) for length, requests in heads
    ]
    assert [active.rule.status if active else None for active in found] == [None, 413, 429, 413]
    assert [(rule["seen"], rule["hits"]) for rule in book.as_list()] == [(2, 2), (1, 1)]


def test_a_rule_is_certain_as_soon_as_the_body_has_shown_enough() -> None:
    """A rule without uid is certain before the body, one with uid when its instance came, and not sooner."""
    book = RuleBook()
    book.add(parse_rule("uid=1.2,drop=during"))
    selection = book.select()
    assert selection.advance(set(), 0, complete=False) is None
    assert selection.advance({"1.1"}, 1, complete=False) is None
    active = selection.advance({"1.1", "1.2"}, 2, complete=False)
    assert active is not None
    assert (active.seen, active.hits) == (1, 1)
    assert selection.advance({"1.1", "1.2"}, 2, complete=True) is active
    assert (active.seen, active.hits) == (1, 1)


def test_an_open_rule_keeps_those_behind_it_waiting() -> None:
    """A drop behind a rule for one instance comes only when that instance did not come."""
    book = RuleBook()
    first, second = book.add(parse_rule("uid=1.2,status=500")), book.add(parse_rule("drop=before"))
    selection = book.select()
    assert selection.advance(set(), 0, complete=False) is None
    assert selection.advance({"1.1"}, 1, complete=True) is second
    assert book.select().advance({"1.2"}, 1, complete=True) is first


def test_numbers_of_rules_are_never_used_twice() -> None:
    """A rule added after others were removed gets a new number."""
    book = RuleBook()
    rule = parse_rule("delay=0")
    assert book.add(rule).rule_id == 1
    assert book.remove(1)
    assert not book.remove(1)
    assert book.add(rule).rule_id == 2
    book.clear()
    assert book.as_list() == []
    assert book.add(rule).rule_id == 3
