"""The console as a DICOM peer, of a receiver that rejects."""

import socket
import threading
import time

import pytest
from pynetdicom.acse import ACSE

from common.config import ReceiverConfig
from console.dimse import PeerError, echo

# Rejected for good by the service user: calling AE title not recognised (PS3.8 9.3.4).
REJECTION = bytes((3, 0, 0, 0, 0, 4, 0, 1, 1, 3))


@pytest.mark.parametrize("is_slow", [False, True], ids=["as it goes", "before its answer is waited for"])
def test_a_rejection_is_told_however_soon_it_comes(monkeypatch: pytest.MonkeyPatch, *, is_slow: bool) -> None:
    """pynetdicom takes one that is there before it looks for a connection that was refused."""
    send_request = ACSE.send_request

    def send_and_wait(acse: ACSE) -> None:
        send_request(acse)
        time.sleep(0.3)

    if is_slow:
        monkeypatch.setattr(ACSE, "send_request", send_and_wait)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reject() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(REJECTION)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)

        thread = threading.Thread(target=reject)
        thread.start()
        config = ReceiverConfig(host="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(PeerError, match=r"Calling AE title not recognised \(1, 1, 3\)") as caught:
            echo(config, 5)
        thread.join(10)
    assert caught.value.answered


def test_nobody_there_is_told() -> None:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(PeerError, match="found none") as caught:
        echo(ReceiverConfig(host="127.0.0.1", port=port), 5)
    assert not caught.value.answered
