"""`python -m bench.discard PORT [FOLDER]`: a receiver that throws everything away and answers success.

With a folder it keeps each instance durably before it answers: written, flushed, renamed, the folder flushed. That is
the least of what a receiver must do that promises anything; it reads nothing of it, and keeps no account.

It accepts every proposed context in its first transfer syntax. It expects one PDV in each PDU, which is how DCMTK
sends, and reads each into one buffer that is never looked at.
"""

import os
import socket
import struct
import sys
import threading
import uuid
from pathlib import Path

from common.part10 import part10_header

_HEADER = struct.Struct(">BxII")  # of a PDU, and the length of its first PDV; an A-RELEASE-RQ is just as long
_MAX_PDU = 131072
# One for all: who reads the files goes by the dataset.
_FILE_HEADER = part10_header("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1")
_MESSAGE_ID = struct.pack("<HHI", 0, 0x0110, 2)


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _acceptance(request: bytes) -> bytes:
    """The A-ASSOCIATE-AC to the body of an A-ASSOCIATE-RQ (PS3.8 9.3.3)."""
    items = []
    at = 68
    while at < len(request):
        kind, length = request[at], int.from_bytes(request[at + 2 : at + 4], "big")
        value = request[at + 4 : at + 4 + length]
        if kind == 0x10:
            items.append(_item(kind, value))
        elif kind == 0x20:
            syntax = 4 + 4 + int.from_bytes(value[6:8], "big")
            syntax_end = syntax + 4 + int.from_bytes(value[syntax + 2 : syntax + 4], "big")
            items.append(_item(0x21, value[:1] + bytes(3) + value[syntax:syntax_end]))
        at += 4 + length
    items.append(_item(0x50, _item(0x51, struct.pack(">I", _MAX_PDU)) + _item(0x52, b"1.2.826.0.1.3680043.10.1499.4")))
    body = request[:68] + b"".join(items)
    return struct.pack(">BxI", 2, len(body)) + body


def _success(message_id: bytes) -> bytes:
    elements = b"".join(
        (
            struct.pack("<HHIH", 0, 0x0100, 2, 0x8001),
            struct.pack("<HHI", 0, 0x0120, 2) + message_id,
            struct.pack("<HHIH", 0, 0x0800, 2, 0x0101),
            struct.pack("<HHIH", 0, 0x0900, 2, 0x0000),
        )
    )
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements


class Keeping:
    """Keeps the datasets of one association in a folder; without one it does nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._fd = -1
        self._name = ""

    def write(self, fragment: memoryview) -> None:
        """Append a fragment."""
        if self._folder is not None:
            if self._fd < 0:
                self._name = uuid.uuid4().hex
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._fd = os.open(f"{self._folder}/staging/{self._name}", flags, 0o600)
                os.writev(self._fd, (_FILE_HEADER, fragment))
            else:
                os.write(self._fd, fragment)

    def end(self) -> None:
        """Make what was written durable under a name of its own."""
        if self._folder is not None:
            os.fsync(self._fd)
            os.close(self._fd)
            os.rename(f"{self._folder}/staging/{self._name}", f"{self._folder}/store/{self._name}")
            folder = os.open(f"{self._folder}/store", os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
            self._fd = -1


def serve(connection: socket.socket, keeping: Keeping) -> None:
    """Serve one association to its end."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    header, buffer = bytearray(_HEADER.size), bytearray(2 * _MAX_PDU)
    view = memoryview(buffer)
    answer = b""
    with connection:
        while connection.recv_into(header, 0, socket.MSG_WAITALL) == _HEADER.size:
            kind, length, _ = _HEADER.unpack(header)
            left = length - 4
            if left > 0:
                connection.recv_into(view[:left], 0, socket.MSG_WAITALL)
            if kind == 1:
                connection.sendall(_acceptance(bytes(header[6:]) + bytes(view[:left])))
            elif kind == 5:
                connection.sendall(bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
                return
            elif buffer[1] & 1:
                at = buffer.index(_MESSAGE_ID)
                command = _success(bytes(view[at + 8 : at + 10]))
                answer = _HEADER.pack(4, len(command) + 6, len(command) + 2) + bytes((buffer[0], 3)) + command
            else:
                keeping.write(view[2:left])
                if buffer[1] & 2:
                    keeping.end()
                    connection.sendall(answer)


def main(port: int, folder: Path | None = None) -> None:
    """Accept for ever."""
    with socket.create_server(("127.0.0.1", port), backlog=64, reuse_port=True) as server:
        print("listening", flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=serve, args=(connection, Keeping(folder)), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
