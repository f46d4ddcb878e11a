"""Streams that a sender might have sent, damaged in ways that can be repeated; and what a stream says at most.

A mutation is chosen by a seed and nothing else. Lengths and types are hit more often than their share of the bytes:
in the pixels most damage is only another picture.
"""

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

ASSOCIATE_RQ, DATA = 0x01, 0x04
_HEAD_OF_DATASET = 400  # bytes that are damaged as often as structure: the identity is read from them
_NO_DATASET = b"\x01\x01"
_LENGTHS = (0, 1, 2, 5, 6, 7, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Field:
    """A number in a stream: a length if it has more than one byte, else a type, an ID or a header."""

    at: int
    size: int
    little: bool = False

    def read(self, stream: bytes) -> int:
        """Its value."""
        return int.from_bytes(stream[self.at : self.at + self.size], "little" if self.little else "big")

    def written(self, stream: bytes, value: int) -> bytes:
        """The stream with another value in it, cut to its size."""
        value &= (1 << 8 * self.size) - 1
        content = value.to_bytes(self.size, "little" if self.little else "big")
        return stream[: self.at] + content + stream[self.at + self.size :]


def pdu_bounds(stream: bytes) -> list[tuple[int, int]]:
    """Begin and end of each whole PDU (PS3.8 9.3.1)."""
    bounds, at = [], 0
    while at + 6 <= len(stream):
        end = at + 6 + int.from_bytes(stream[at + 2 : at + 6], "big")
        if end > len(stream):
            break
        bounds.append((at, end))
        at = end
    return bounds


def fields(stream: bytes) -> tuple[list[Field], list[tuple[int, int]]]:
    """The numbers of a whole recording, and the spans of the command sets and of the heads of datasets."""
    found: list[Field] = []
    spans: list[tuple[int, int]] = []
    for begin, end in pdu_bounds(stream):
        found += [Field(begin, 1), Field(begin + 2, 4)]
        if stream[begin] == ASSOCIATE_RQ:
            found += _items(stream, begin + 74, end)
            spans.append((begin, min(end, begin + 1000)))
        elif stream[begin] == DATA:
            for at, length, header in _values(stream, begin + 6, end):
                found += [Field(at, 4), Field(at + 4, 1), Field(at + 5, 1)]
                spans.append((at + 6, at + 6 + min(length, _HEAD_OF_DATASET)))
                if header & 1:
                    found += _elements(stream, at + 6, at + 4 + length)
    return found, spans


def _items(stream: bytes, at: int, end: int) -> Iterator[Field]:
    while at + 4 <= end:
        yield from (Field(at, 1), Field(at + 2, 2))
        kind, length = struct.unpack_from(">BxH", stream, at)
        if kind == 0x20:
            yield from _items(stream, at + 8, at + 4 + length)
        elif kind == 0x50:
            yield from _items(stream, at + 4, at + 4 + length)
        at += 4 + length


def _values(stream: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at + 6 <= end:
        length, _, header = struct.unpack_from(">IBB", stream, at)
        yield at, length, header
        at += 4 + length


def _elements(stream: bytes, at: int, end: int) -> Iterator[Field]:
    while at + 8 <= end:
        yield from (Field(at + 2, 2, little=True), Field(at + 4, 4, little=True))
        at += 8 + int.from_bytes(stream[at + 4 : at + 8], "little")


class Mutator:
    """Damages recordings.

    Args:
        recordings: whole streams of senders.
    """

    def __init__(self, recordings: Sequence[bytes]) -> None:
        self._recordings = recordings
        self._places = [fields(recording) for recording in recordings]
        self._kinds: tuple[Callable[[random.Random, bytes, int], bytes], ...] = (
            self._flip,
            self._number,
            self._number,
            self._truncate,
            self._remove,
            self._repeat,
            self._splice,
            self._swap,
            self._rubbish,
        )

    def mutated(self, seed: int) -> tuple[bytes, str]:
        """A damaged stream, and how it was damaged."""
        rng = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        which = rng.randrange(len(self._recordings))
        stream, names = self._recordings[which], []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kind = rng.choice(self._kinds)
            stream = kind(rng, stream, which)
            names.append(kind.__name__.lstrip("_"))
        return stream, f"seed {seed}: recording {which}, {', '.join(names)}"

    def _place(self, rng: random.Random, stream: bytes, which: int) -> int:
        """A position, most often in the structure or the head of a dataset."""
        spans = self._places[which][1]
        if rng.random() < 0.8 and spans:
            begin, end = rng.choice(spans)
            return min(rng.randrange(begin, max(end, begin + 1)), max(0, len(stream) - 1))
        return rng.randrange(max(1, len(stream)))

    def _flip(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        damaged = bytearray(stream)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            if damaged:
                damaged[self._place(rng, stream, which)] ^= 1 << rng.randrange(8)
        return bytes(damaged)

    def _number(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        found = self._places[which][0]
        # The lengths of PDUs and their values decide most, and are few beside those of items and elements.
        outer = [field for field in found if field.size == 4 and not field.little]
        field = rng.choice(outer if rng.random() < 0.4 else found)
        now = field.read(stream)
        values = (*_LENGTHS, *(now + by for by in (-6, -2, -1, 1, 2, 6)), now ^ (1 << rng.randrange(8 * field.size)))
        return field.written(stream, rng.choice(values))

    def _truncate(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        return stream[: self._place(rng, stream, which)]

    def _remove(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        begin, end = self._span(rng, stream, which)
        return stream[:begin] + stream[end:]

    def _repeat(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        begin, end = self._span(rng, stream, which)
        return stream[:end] + stream[begin:end] * rng.choice((1, 1, 3)) + stream[end:]

    def _swap(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        (a, b), (c, d) = sorted((self._span(rng, stream, which), self._span(rng, stream, which)))
        if b > c:
            return stream
        return stream[:a] + stream[c:d] + stream[b:c] + stream[a:b] + stream[d:]

    def _splice(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        """Go on with another recording, or put a piece of it in."""
        other = rng.randrange(len(self._recordings))
        begin, end = self._span(rng, self._recordings[other], other)
        at = self._span(rng, stream, which)[0]
        if rng.random() < 0.5:
            return stream[:at] + self._recordings[other][begin:]
        return stream[:at] + self._recordings[other][begin:end] + stream[at:]

    def _rubbish(self, rng: random.Random, stream: bytes, which: int) -> bytes:
        at = self._place(rng, stream, which)
        return stream[:at] + rng.randbytes(rng.choice((1, 2, 4, 64, 5000))) + stream[at + rng.choice((0, 1, 4)) :]

    def _span(self, rng: random.Random, stream: bytes, which: int) -> tuple[int, int]:
        """A piece of a stream: whole PDUs as often as not."""
        bounds = pdu_bounds(stream)
        if bounds and rng.random() < 0.5:
            first = rng.randrange(len(bounds))
            last = min(len(bounds) - 1, first + rng.choice((0, 0, 1, 3)))
            return bounds[first][0], bounds[last][1]
        begin = self._place(rng, stream, which)
        return begin, min(len(stream), begin + rng.choice((1, 2, 4, 6, 12, 100, 20_000)))


def said(stream: bytes) -> set[tuple[bytes, bytes]]:
    """Every instance that a stream can be read to bring: SOP Instance UID of the command, and bytes of the dataset.

    Read by itself, from PS3.8 9.3.5 and PS3.7 6.3 alone; whatever is wrong beside that is the receiver's to judge.
    """
    instances = set()
    command, dataset, context = b"", b"", 0
    for begin, end in pdu_bounds(stream):
        if stream[begin] != DATA:
            continue
        for at, length, header in _values(stream, begin + 6, end):
            # A value that reaches beyond its PDU, and a message in two contexts: nothing behind it is to be believed.
            if length < 2 or at + 4 + length > end or (command and stream[at + 4] != context):
                return instances
            content, context = stream[at + 6 : at + 4 + length], stream[at + 4]
            if header & 1:
                command, dataset = (b"" if dataset else command) + content, b""
            else:
                dataset += content
            if header & 3 == 3 and elements_of(command).get(0x0800, _NO_DATASET) == _NO_DATASET:
                command = b""  # and that was all of the message
            if header & 3 == 2:
                instances.add((uid_of(command), dataset))
                command, dataset = b"", b""
    return instances


def elements_of(command_set: bytes) -> dict[int, bytes]:
    """The elements of a command set; of those that come twice the last."""
    found, at = {}, 0
    while at + 8 <= len(command_set):
        number, length = struct.unpack_from("<2xHI", command_set, at)
        found[number] = command_set[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def uid_of(command_set: bytes) -> bytes:
    """Its Affected SOP Instance UID (0000,1000), without padding."""
    return elements_of(command_set).get(0x1000, b"").rstrip(b"\0 ")


def acknowledged(answers: bytes) -> list[bytes]:
    """The SOP Instance UIDs of the C-STORE responses with status 0000 among a receiver's answers, in their order."""
    uids = []
    for begin, end in pdu_bounds(answers):
        if answers[begin] == DATA:
            elements = elements_of(answers[begin + 12 : end])
            if (elements.get(0x0100), elements.get(0x0900)) == (b"\x01\x80", b"\0\0"):
                uids.append(elements.get(0x1000, b"").rstrip(b"\0 "))
    return uids
