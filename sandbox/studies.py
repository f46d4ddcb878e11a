"""The Studies resource: POST <root>/studies and <root>/studies/<study> (STOW-RS, PS3.18 10.5).

What is wrong with the request as a whole is refused before anything of it is stored; what is wrong with one
instance is that instance's failure. Misbehaviour by a rule comes last, in the order store, delay, answer.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import ClientPayloadError, hdrs, web

from sandbox.answer import Outcome, build_response, encode, status_of
from sandbox.errors import RefusedError
from sandbox.journal import Journal, Record
from sandbox.media import Media, boundary_of, negotiate, shown
from sandbox.part10 import is_uid
from sandbox.reception import Part, Reception
from sandbox.rulebook import RuleBook
from sandbox.rules import Answer, Drop, Exists, Rule
from sandbox.store import Placed, Store

# PS3.18 I.2.2 leaves the last two digits of A9xx open; Azure means the same by this one (43265).
STUDY_MISMATCH = 0xA901
DUPLICATE_SOP_INSTANCE = 0x0111
OUT_OF_RESOURCES = 0xA700
PROCESSING_FAILURE = 0x0110

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>Please log in</h1></body></html>\n"
_GARBAGE = b'{"status": "ok"}'
_BEHAVE = Rule(delay=0)  # a rule must do something


@dataclass(frozen=True)
class _Wanted:
    """What a request's head asks for."""

    study: str | None
    boundary: str
    length: int
    media: Media


class Studies:
    """Answers POSTs to the Studies resource."""

    def __init__(self, store: Store, rules: RuleBook, journal: Journal, root: str) -> None:
        self._store = store
        self._rules = rules
        self._journal = journal
        self._root = root
        self._under_way = 0

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Store the instances of one request, or do what a rule says."""
        self._under_way += 1
        try:
            return await self._post(request)
        finally:
            self._under_way -= 1

    async def _post(self, request: web.Request) -> web.StreamResponse:
        record = Record(request.path)
        try:
            wanted = _check_head(request)
        except RefusedError as error:
            return self._refuse(record, error)
        reception = Reception(self._store, self._rules.select(length=wanted.length, requests=self._under_way))
        try:
            await _send_continue(request)
            await reception.read(request, wanted.boundary, wanted.length)
            self._note(record, reception)
            return await self._act(request, wanted, reception, record)
        except RefusedError as error:
            self._note(record, reception)
            return self._refuse(record, error)
        except (ConnectionError, ClientPayloadError):
            # After _act has entered the record, there is nothing to add: the answer found no reader.
            if record.status is None and record.dropped is None:
                self._note(record, reception)
                record.dropped = "peer"
                self._journal.add(record)
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        finally:
            reception.discard()

    def _note(self, record: Record, reception: Reception) -> None:
        record.bytes = reception.bytes
        record.instances = len(reception.parts)
        record.sop_instance_uids = [part.sop_instance_uid for part in reception.parts]
        record.rule = reception.active.rule_id if reception.active else None

    def _refuse(self, record: Record, error: RefusedError) -> web.Response:
        record.refused = str(error)
        record.status = error.status
        self._journal.add(record)
        return web.Response(status=error.status, text=f"{error}\n")

    async def _act(
        self, request: web.Request, wanted: _Wanted, reception: Reception, record: Record
    ) -> web.StreamResponse:
        rule = reception.active.rule if reception.active else _BEHAVE
        outcomes: list[Outcome] = []
        stores = rule.store or not rule.answers_plainly()
        if stores and rule.drop not in (Drop.BEFORE, Drop.DURING):
            outcomes = await asyncio.to_thread(self._store_parts, reception.parts, wanted.study, rule)
            record.settle(outcomes)
        if rule.delay:
            await asyncio.sleep(rule.delay)
        if rule.drop is not None:
            record.dropped = rule.drop.value
            self._journal.add(record)
            abort(request)
            return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)
        if rule.answers_plainly():
            answer = plain(rule, record.rule)
        else:
            answer = _shape(rule, outcomes, _base_url(request) + self._root + "/studies", wanted.media)
        record.status = answer.status
        self._journal.add(record)
        return await _hang(request, answer, rule.hang) if rule.hang else answer

    def _store_parts(self, parts: Sequence[Part], study: str | None, rule: Rule) -> list[Outcome]:
        return [self._store_part(part, study, rule) for part in parts]

    def _store_part(self, part: Part, study: str | None, rule: Rule) -> Outcome:
        identity, error = part.checked.identity, part.checked.error
        uid = identity.sop_instance_uid
        if error is not None or uid is None:
            reason = error.failure_reason if error is not None else PROCESSING_FAILURE
            return Outcome(identity, reason, explanation=str(error))
        if study is not None and identity.study_instance_uid != study:
            text = f"expected an instance of study {study}, found one of {identity.study_instance_uid}"
            return Outcome(identity, STUDY_MISMATCH, explanation=text)
        refuses = rule.exists is not Exists.REFUSE and (rule.fail is not None or rule.fail_unnamed)
        if rule.concerns(uid) and refuses:
            reason = PROCESSING_FAILURE if rule.fail is None else rule.fail
            return Outcome(identity, reason, explanation="a rule says so", named=not rule.fail_unnamed)
        exists = rule.exists if rule.concerns(uid) else None
        placed = self._store.place(part.partial, uid, exists)
        if placed is Placed.DIFFERENT:
            reason = (exists is Exists.REFUSE and rule.fail) or DUPLICATE_SOP_INSTANCE
            text = "expected a new SOP Instance UID, found one that is here with other bytes, or a rule says so"
            return Outcome(identity, reason, explanation=text)
        if placed is Placed.UNWRITABLE:
            return Outcome(identity, OUT_OF_RESOURCES, explanation="the sandbox's disk did not take it")
        return Outcome(identity, warning_reason=(rule.warn or 0) if rule.concerns(uid) else 0)


def _check_head(request: web.Request) -> _Wanted:
    study = request.match_info.get("study")
    if study is not None and not is_uid(study):
        raise RefusedError(400, f"expected a Study Instance UID after /studies/, found {shown(study)}")
    if hdrs.CONTENT_ENCODING in request.headers:
        raise RefusedError(415, "expected a body without Content-Encoding, found one")
    boundary = boundary_of(request.headers.get(hdrs.CONTENT_TYPE))
    if request.content_length is None:
        # An Orthanc answered 200 to a chunked body and stored nothing (dicomweb-client #42).
        raise RefusedError(411, "expected a Content-Length, found none or a chunked body")
    media = negotiate(", ".join(request.headers.getall(hdrs.ACCEPT, [])))
    return _Wanted(study, boundary, request.content_length, media)


async def leave_expectation(request: web.Request) -> None:
    """Keep aiohttp from saying 100 Continue before the head of a request has been checked."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def _send_continue(request: web.Request) -> None:
    if hdrs.EXPECT in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _base_url(request: web.Request) -> str:
    host = request.headers.get(hdrs.HOST, "")
    if not _HOST.fullmatch(host):
        host = "127.0.0.1"
    return f"{request.scheme}://{host}"


def plain(rule: Rule, rule_id: int | None) -> web.Response:
    """The answer of a rule that has a status of its own."""
    status = rule.status or HTTPStatus.OK
    headers = {}
    if rule.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = rule.retry_after
    if rule.location is not None:
        headers[hdrs.LOCATION] = rule.location
    if status == HTTPStatus.UNAUTHORIZED:
        headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="sandbox"'
    body = f"The sandbox was asked to answer {status} (rule {rule_id}).\n" if rule.body is None else rule.body
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return web.Response(status=status, headers=headers)
    content_type = rule.media.value if rule.media is not None else "text/plain"
    return web.Response(status=status, headers=headers, text=body, content_type=content_type)


def _shape(rule: Rule, outcomes: Sequence[Outcome], studies_url: str, negotiated: Media) -> web.Response:
    media = rule.media or negotiated
    if rule.answer is None:
        body = encode(build_response(outcomes, studies_url), media)
        return web.Response(status=rule.status or status_of(outcomes), body=body, content_type=media.value)
    status = rule.status or HTTPStatus.OK
    if rule.answer is Answer.EMPTY:
        return web.Response(status=status)
    if rule.answer is Answer.HTML:
        return web.Response(status=status, body=_HTML, content_type="text/html")
    if rule.answer is Answer.GARBAGE:
        return web.Response(status=status, body=_GARBAGE, content_type=Media.JSON.value)
    if rule.answer is Answer.OMIT:
        outcomes = [outcome for outcome in outcomes if not rule.concerns(outcome.identity.sop_instance_uid)]
    body = encode(build_response(outcomes, studies_url), media)
    if rule.answer is Answer.TRUNCATED:
        body = body[: len(body) // 2]
    return web.Response(status=status, body=body, content_type=media.value)


async def _hang(request: web.Request, answer: web.Response, seconds: float) -> web.StreamResponse:
    """Send the head and half of the body, wait, send the rest."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    slow = web.StreamResponse(status=answer.status, headers=answer.headers)
    slow.content_length = len(body)
    await slow.prepare(request)
    await slow.write(body[: len(body) // 2])
    await asyncio.sleep(seconds)
    await slow.write(body[len(body) // 2 :])
    await slow.write_eof()
    return slow


def abort(request: web.Request) -> None:
    """Close the TCP connection with a reset, as a machine that fails does it."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
