"""Search (QIDO-RS, PS3.18 10.6) and Retrieve (WADO-RS, PS3.18 10.4) of one instance, as far as a sender needs them.

A search is by SOP Instance UID, in the series or at large. Instances are given back as they were posted, never
converted: whoever asks without transfer-syntax=* is refused.
"""

import asyncio
import os
import uuid
from collections.abc import Sequence

from aiohttp import hdrs, web

from sandbox.media import Media, shown
from sandbox.part10 import HEAD_BYTES, Identity, check_part10, is_uid
from sandbox.rulebook import RuleBook
from sandbox.rules import Answer, Drop, On, Rule
from sandbox.store import Store
from sandbox.studies import abort, plain

SEARCH_PATHS = ("/instances", "/studies/{study}/series/{series}/instances")
RETRIEVE_PATH = "/studies/{study}/series/{series}/instances/{uid}"

_KEYS = ("SOPInstanceUID", "00080018")
_BLOCK = 256 * 1024
_BEHAVE = Rule(delay=0)  # a rule must do something
_HTML = b"<!DOCTYPE html><html><body><h1>Please log in</h1></body></html>\n"
_GARBAGE = b'{"status": "ok"}'


class Retrieval:
    """Answers GETs below the DICOMweb root."""

    def __init__(self, store: Store, rules: RuleBook, root: str) -> None:
        self._store = store
        self._rules = rules
        self._root = root

    def routes(self) -> Sequence[web.RouteDef]:
        """Say which resource is answered by what."""
        searches = [web.get(self._root + path, self.search) for path in SEARCH_PATHS]
        return [*searches, web.get(self._root + RETRIEVE_PATH, self.retrieve)]

    async def search(self, request: web.Request) -> web.StreamResponse:
        """The instance of a UID: 200 and a list of one, or 204."""
        uid = next((request.query[key] for key in _KEYS if key in request.query), "")
        if not is_uid(uid):
            raise web.HTTPBadRequest(text=f"expected SOPInstanceUID=<UID> in the query, found {shown(uid)}\n")
        rule, answer = await self._misbehave(request, On.SEARCH, uid)
        if answer is not None:
            return answer
        identity = await asyncio.to_thread(self._identity, request, uid)
        if identity is None or rule.answer is Answer.OMIT:
            return web.Response(status=204)
        found = {
            "00080016": {"vr": "UI", "Value": [identity.sop_class_uid]},
            "00080018": {"vr": "UI", "Value": [identity.sop_instance_uid]},
            "0020000D": {"vr": "UI", "Value": [identity.study_instance_uid]},
            "0020000E": {"vr": "UI", "Value": [identity.series_instance_uid]},
        }
        return web.json_response([found], content_type=Media.JSON.value)

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """One instance, as the only part of a multipart body."""
        uid = request.match_info["uid"]
        accept = request.headers.get(hdrs.ACCEPT, "")
        if "application/dicom" not in accept or "transfer-syntax=*" not in accept:
            expected = 'expected Accept: multipart/related; type="application/dicom"; transfer-syntax=*'
            raise web.HTTPNotAcceptable(text=f"{expected}, found {shown(accept)}\n")
        rule, answer = await self._misbehave(request, On.RETRIEVE, uid)
        if answer is not None:
            return answer
        path = self._store.path_of(uid) if is_uid(uid) else None
        identity = None if path is None else await asyncio.to_thread(self._identity, request, uid)
        if path is None or identity is None or rule.answer is Answer.OMIT:
            raise web.HTTPNotFound(text="expected an instance that is kept here, found none\n")
        return await _send(request, path, truncated=rule.answer is Answer.TRUNCATED)

    async def _misbehave(self, request: web.Request, on: On, uid: str) -> tuple[Rule, web.Response | None]:
        """Find the rule, and the answer if that is all of it."""
        active = self._rules.select(on).advance({uid}, 1, complete=True)
        if active is None:
            return _BEHAVE, None
        rule = active.rule
        if rule.delay:
            await asyncio.sleep(rule.delay)
        if rule.drop is Drop.BEFORE:
            abort(request)
            return rule, web.Response(status=500)
        if rule.answer is Answer.EMPTY:
            return rule, web.Response(status=rule.status or 200)
        if rule.answer is Answer.HTML:
            return rule, web.Response(status=rule.status or 200, body=_HTML, content_type="text/html")
        if rule.answer is Answer.GARBAGE:
            return rule, web.Response(status=rule.status or 200, body=_GARBAGE, content_type=Media.JSON.value)
        return rule, plain(rule, active.rule_id) if rule.status is not None else None

    def _identity(self, request: web.Request, uid: str) -> Identity | None:
        """Whose instance is kept under a UID; None if there is none, or not in the study and series of the path."""
        path = self._store.path_of(uid)
        try:
            with open(path or "", "rb") as file:
                identity = check_part10(file.read(HEAD_BYTES)).identity
        except OSError:
            return None
        asked = (request.match_info.get("study"), request.match_info.get("series"))
        if asked not in ((None, None), (identity.study_instance_uid, identity.series_instance_uid)):
            return None
        return identity


async def _send(request: web.Request, path: str, *, truncated: bool) -> web.StreamResponse:
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    size = os.stat(path).st_size
    answer = web.StreamResponse()
    answer.headers[hdrs.CONTENT_TYPE] = f'multipart/related; type="application/dicom"; boundary={boundary}'
    answer.content_length = len(head) + size + len(tail)
    await answer.prepare(request)
    await answer.write(head)
    with open(path, "rb") as file:  # noqa: ASYNC230  a local file
        left = size // 2 if truncated else size
        while left and (block := await asyncio.to_thread(file.read, min(_BLOCK, left))):
            left -= len(block)
            await answer.write(block)
    if truncated:
        abort(request)
        return answer
    await answer.write(tail)
    await answer.write_eof()
    return answer
