"""`python -m uploader --check`: one harmless request to the archive, with the session that deliveries use.

A search for one study (QIDO-RS, PS3.18 10.6), of which nothing is kept or shown. An archive that has no search is told
apart from a wrong address, as far as that is possible, by OPTIONS on the path that instances are posted to. Nothing is
stored, so that what remains unknown is said: whether storing is allowed.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace

from common import logs
from common.config import DestinationConfig, LoggingConfig
from uploader.stow import Heard, StowClient
from uploader.verdict import Failure

_MOST_SECONDS = 15.0  # a person waits
_SEARCH = "/studies?limit=1"
_STUDIES = "/studies"
_ACCEPT = "application/dicom+json"
_NOT_PROVEN = "Whether storing is allowed is not proven by that."
_URL = "Look at url in [destination]."
_NO_SEARCH = frozenset((400, 404, 405, 406, 410, 415, 422, 501))

_FAILURES = {
    Failure.CONNECT: "Look at url in [destination], and whether the archive runs and a firewall lets us through.",
    Failure.CERTIFICATE: "Look at ca_bundle and client_certificate in [destination], and at the archive's certificate.",
    Failure.PROXY: "Look at proxy in [destination].",
    Failure.SETUP: "Look at [destination].",
    Failure.BROKEN: "Look whether url in [destination] should begin with http or https, and at the archive's log.",
    Failure.TIMEOUT: "The archive, or something before it, takes the connection and says nothing: look at its log.",
    Failure.TOKEN: "Look at the credentials in [destination].",
}
_STATUSES = {
    401: ("it does not accept our credentials", "Look at auth and its keys in [destination]."),
    402: ("a quota of the account is used up", "Raise it there."),
    403: (
        "it does not allow this account to search; whether it may store is not known",
        "Look at the rights of the account in [destination].",
    ),
    407: ("the proxy does not accept our credentials", "Look at proxy in [destination]."),
    408: ("it is too busy", "Try again; look at the archive."),
    429: ("it is too busy", "Try again; look at the archive."),
}


@dataclass(frozen=True, slots=True)
class Check:
    """What the archive was found to be.

    Attributes:
        url: what was asked for.
        severity: ok, warning (it is there, and something is odd) or error (deliveries would fail).
        http_status: of the answer that says so; None if there was none.
        text: in words, without patient data.
        advice: what can be done; empty if nothing need be.
        seconds: how long it took.
    """

    url: str
    severity: str
    http_status: int | None
    text: str
    advice: str
    seconds: float = 0.0


def print_check(config: DestinationConfig) -> int:
    """Ask, print what it came to as one JSON object, and return the exit status."""
    logs.setup(LoggingConfig(), "uploader")
    found = check(config)
    sys.stdout.write(f"{json.dumps(asdict(found))}\n")
    return 1 if found.severity == "error" else 0


def check(config: DestinationConfig) -> Check:
    """Ask the archive, once or twice."""
    patient = replace(
        config,
        connect_timeout_seconds=min(config.connect_timeout_seconds, _MOST_SECONDS),
        read_timeout_seconds=min(config.read_timeout_seconds, _MOST_SECONDS),
    )
    client = StowClient(patient)
    begun = time.monotonic()
    searched = client.ask("GET", _SEARCH, _ACCEPT)
    found = judge_search(config.url, searched)
    if found is None:
        found = judge_options(config.url, searched, client.ask("OPTIONS", _STUDIES, "*/*"))
    return replace(found, seconds=round(time.monotonic() - begun, 3))


def judge_search(url: str, heard: Heard) -> Check | None:
    """What the answer to the search means; None if it may only mean that there is no search."""
    url, answer = url + _SEARCH, heard.answer
    status = answer.status
    if status is None:
        advice = _FAILURES[answer.failure or Failure.BROKEN]
        return Check(url, "error", None, f"The archive does not answer: {answer.detail}.", advice)
    if 200 <= status < 300:
        return _succeeded(url, status, heard)
    if status in _NO_SEARCH:
        return None
    said, advice = _STATUSES.get(status, ("", "Look at the archive, and at its log."))
    if 300 <= status < 400:
        said, advice = "it redirects, which is not followed", _URL
    said = said or ("it is in trouble" if status >= 500 else "it does not take the request")
    return Check(url, "error", status, f"The archive answers HTTP {status}: {said}.", advice)


def _succeeded(url: str, status: int, heard: Heard) -> Check:
    """A 2xx. Whatever answers to a browser answers with a page; no part of the body is shown."""
    begins = heard.answer.excerpt.lstrip("\ufeff \r\n\t")[:1]
    if begins in {"", "["} or "dicom" in heard.content_type.lower():
        return Check(url, "ok", status, f"The archive answers to a search (HTTP {status}). {_NOT_PROVEN}", "")
    return Check(
        url,
        "warning",
        status,
        f"Something answers with HTTP {status}, but not with the result of a search.",
        f"{_URL} It should be the root of the DICOMweb service, not that of a page for people.",
    )


def judge_options(url: str, searched: Heard, options: Heard) -> Check:
    """What it means that there is no search, by what OPTIONS says of the path that instances are posted to."""
    first = searched.answer.status
    status = options.answer.status
    url += _STUDIES
    # A 405 lists what the path takes (RFC 9110 15.5.6), as the answer to OPTIONS does.
    methods = f"{searched.allow},{options.allow}".upper()
    if "POST" in (method.strip() for method in methods.split(",")):
        text = f"The archive has no search (HTTP {first}), and says that /studies takes a POST. {_NOT_PROVEN}"
        return Check(url, "ok", status, text, "")
    if first == 404 and (status is None or status in {404, 410}):
        text = "Neither a search nor the path /studies is known there (HTTP 404): most likely the address is wrong."
        return Check(url, "error", first, text, f"{_URL} It should be the root of the DICOMweb service.")
    return Check(
        url,
        "warning",
        first,
        f"Something answers, and has no search (HTTP {first}); whether it is a DICOMweb service cannot be told.",
        f"{_URL} Then send one instance.",
    )
