"""Values from the first bytes of a plain dataset, as fast as Python goes. What is not plain is common.elements'.

Plain is what nearly every device writes in front of its pixels: data elements with VRs of the standard (or none, in
implicit VR) and with a defined length. Every instance that is received is read here: a header costs half a
microsecond there, and two in `walk`, which is exact about everything.
"""

import struct

from common.elements import LONG_VRS, SHORT_VRS, UNDEFINED_LENGTH


def plain_values(
    head: bytes | bytearray, size_bytes: int, tags: frozenset[int], *, implicit: bool, little_endian: bool = True
) -> dict[int, bytes] | None:
    """The values of some elements of a dataset, by tag, as far as it is plain.

    Args:
        head: its first bytes.
        size_bytes: of the whole dataset.
        tags: of the elements; what follows the greatest of them is not looked at.
        implicit: the VR is implicit, as the transfer syntax has it.
        little_endian: the byte order.

    Returns:
        None if something is not plain, or if `head` ends before the last of the elements can have come.
    """
    order = "<" if little_endian else ">"
    explicit_header = struct.Struct(order + "HH2sH").unpack_from
    implicit_header = struct.Struct(order + "HHL").unpack_from
    long_length = struct.Struct(order + "L").unpack_from
    last, end, at = max(tags), len(head), 0
    found: dict[int, bytes] = {}
    while at != size_bytes:
        if at + 8 > end:
            return None
        group, number, vr, length = explicit_header(head, at)
        tag = group << 16 | number
        if tag > last:
            break
        if implicit:
            # A first element with a VR: the dataset is in explicit VR, whatever was negotiated.
            if tag == 0 or (at == 0 and (vr in SHORT_VRS or vr in LONG_VRS)):
                return None
            length = implicit_header(head, at)[2]
            at += 8
        elif vr in SHORT_VRS:
            at += 8
        elif vr in LONG_VRS:
            at += 12
            length = long_length(head, at - 4)[0] if at <= end else UNDEFINED_LENGTH
        else:
            return None
        if length == UNDEFINED_LENGTH or at + length > (end if tag in tags else size_bytes):
            return None
        if tag in tags:
            found[tag] = bytes(head[at : at + length])
        at += length
    return found
