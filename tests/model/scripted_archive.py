"""An archive that answers as it is told, and is honest: what it names as stored, it has, byte for byte."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from common.claim import Claim
from common.errors import InstanceError
from common.part10 import read_part10
from uploader.multipart import PartError
from uploader.verdict import Answer, Failure, StoreResponse

REFUSING = (400, 409, 413, 415, 422)
AWAY = (401, 403, 404, 408, 429, 500, 502, 503)
MANNERS = (
    "stores",
    "stores",
    "stores with a warning",
    "stores and is not heard",
    "stores some",
    "stores, names nobody",
    "stores, names others",
    "has some already",
    "fails some for good",
    "fails some for now",
    "refuses some",
    "breaks off",
    "is silent",
    *(str(status) for status in (*REFUSING, *AWAY)),
)
_UNHEARD = {
    "is silent": Answer(failure=Failure.TIMEOUT, detail="no answer in time"),
    "breaks off": Answer(failure=Failure.BROKEN, detail="the connection broke"),
    "stores and is not heard": Answer(failure=Failure.BROKEN, detail="the connection broke"),
}
_REASONS = {"fails some for good": 0xA900, "fails some for now": 0xA700}


def digest(content: bytes) -> str:
    """What an instance is known by in the model: its bytes."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class ScriptedArchive:
    """The destination, as a `uploader.delivery.Client`.

    Attributes:
        manner: how it answers from now on.
        step: told before a request is read, and before its answer is given.
        under_way: inodes of the files in requests that have no answer yet.
        has: by SOP Instance UID, the digests of what it has of it.
        named: the digests of what it named as stored in an answer that it began to give.
    """

    step: Callable[[str], None]
    manner: str = "stores"
    has: dict[str, set[str]] = field(default_factory=dict)
    under_way: set[int] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    named_uids: set[str] = field(default_factory=set)

    def store(self, parts: Sequence[Claim], *, tries: int = 3) -> Answer:
        """Answer one request."""
        del tries
        files = {os.fstat(part.fd).st_ino for part in parts}
        assert not files & self.under_way, "a file is sent while it is being sent"
        self.under_way |= files
        try:
            self.step("request")
            bodies = [self._read(part) for part in parts]
            answer = self._answer(bodies)
            self.step("answer")
            return answer
        finally:
            self.under_way -= files

    def _read(self, part: Claim) -> tuple[str, str]:
        content = part.read_at(0, part.size_bytes)
        if len(content) < part.size_bytes:
            raise PartError(part)
        try:
            uid = read_part10(io.BytesIO(content), len(content)).sop_instance_uid
        except InstanceError:
            uid = ""  # it was changed under the uploader's hands
        return uid, digest(content)

    def _answer(self, bodies: list[tuple[str, str]]) -> Answer:
        manner = self.manner
        if manner.isdigit():
            return Answer(status=int(manner), detail=f"HTTP {manner}")
        if manner in _UNHEARD:
            if manner == "stores and is not heard":
                self._keep(bodies)
            return _UNHEARD[manner]
        status, response = self._response(bodies)
        return Answer(status=status, response=response)

    def _response(self, bodies: list[tuple[str, str]]) -> tuple[int, StoreResponse]:
        manner, half = self.manner, [uid for uid, _ in bodies[::2]]
        if manner == "has some already":
            there = {uid: 0x0111 for uid, known in bodies if self.has.get(uid) == {known}}
            self._name(body for body in bodies if body[0] in there)
            rest = [body for body in bodies if body[0] not in there]
            return 409, StoreResponse(stored=self._store(rest), failed=there)
        if manner == "refuses some":  # and has done nothing about the others, of which it says nothing
            return 409, StoreResponse(failed=dict.fromkeys(half, 0xA900))
        if manner in _REASONS:
            return 202, StoreResponse(stored=self._store(bodies[1::2]), failed=dict.fromkeys(half, _REASONS[manner]))
        if manner == "stores some":
            return 202, StoreResponse(stored=self._store(bodies[::2]))
        if manner.startswith("stores, names"):
            self._keep(bodies)
            return 200, StoreResponse(stored={"1.2.3.999": None} if manner.endswith("others") else {})
        return 200, StoreResponse(stored=self._store(bodies, 0xB000 if manner == "stores with a warning" else None))

    def _store(self, bodies: list[tuple[str, str]], warning: int | None = None) -> dict[str, int | None]:
        self._keep(bodies)
        self._name(bodies)
        return {uid: warning for uid, _ in bodies if uid}

    def _keep(self, bodies: list[tuple[str, str]]) -> None:
        for uid, known in bodies:
            self.has.setdefault(uid, set()).add(known)

    def _name(self, bodies: Iterable[tuple[str, str]]) -> None:
        for uid, known in bodies:
            self.named.add(known)
            self.named_uids.add(uid)
