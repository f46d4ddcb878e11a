"""What we rely on in pynetdicom beyond its public interface. It is pinned; these say what moved when the pin does."""

import inspect
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pynetdicom
import pytest
from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from receiver.foreign import configure
from support.pipeline import ROOT


@pytest.fixture
def configured() -> Iterator[None]:
    """Our configuration of pynetdicom, taken back at the end."""
    kept = {name: getattr(_config, name) for name in dir(_config) if name.isupper()}
    validators, level = dict(_config.VALIDATORS), logging.getLogger("pynetdicom").level
    configure()
    yield
    for name, value in kept.items():
        setattr(_config, name, value)
    _config.VALIDATORS.clear()
    _config.VALIDATORS.update(validators)
    logging.getLogger("pynetdicom").setLevel(level)


def source(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


def test_the_version_is_the_one_that_was_read() -> None:
    """Another version needs this file to be read again against its source."""
    assert pynetdicom.__version__ == "3.0.4"


def test_an_association_has_what_we_touch() -> None:
    """Attributes that our subclass sets, on one that was just made; making it starts no thread."""
    before = threading.active_count()
    association = Association(AE(), MODE_ACCEPTOR)
    assert threading.active_count() == before
    assert association._accepted_cx == {}
    assert association.is_established is False
    assert association.requestor.writeable  # without a primitive its attributes are those that are set
    association.requestor.maximum_length = 0
    assert association.dimse.maximum_pdu_size == 0
    assert association.dimse.dul is association.acse.dul is association.dul
    assert association.acceptor.accepted_common_extended == {}


def test_a_request_is_served_by_what_we_call() -> None:
    """A request is put together from its fragments, and served in the calling thread."""
    assert list(inspect.signature(Association._serve_request).parameters) == ["self", "msg", "context_id"]
    assert "context = self._accepted_cx[context_id]" in source(Association._serve_request)
    assert list(inspect.signature(DIMSEMessage.decode_msg).parameters) == ["self", "primitive", "assoc"]
    assert list(inspect.signature(DIMSEMessage.message_to_primitive).parameters) == ["self"]
    # Why it is not handed in where pynetdicom's own threads do.
    assert "threading.Thread(" in source(DIMSEServiceProvider.receive_primitive)


def test_all_that_is_sent_leaves_by_what_we_replace() -> None:
    """P-DATA primitives go to `send_pdu`, and every way to abort ends in `_abort_blocking`."""
    assert "self.dul.send_pdu(" in source(DIMSEServiceProvider.send_msg)
    assert list(inspect.signature(DULServiceProvider.send_pdu).parameters) == ["self", "primitive"]
    assert "self._abort_blocking(block)" in source(Association.abort)
    assert "self._abort_blocking(block)" in source(Association._abort_nonblocking)
    assert list(inspect.signature(Association._abort_blocking).parameters) == ["self", "block"]


def test_fragments_are_primitives_as_we_make_them() -> None:
    """A P-DATA primitive of [context ID, fragment] becomes a P-DATA-TF as the standard has it (PS3.8 9.3.5)."""
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, b"\x03"]]  # type: ignore[list-item]
    pdu = P_DATA_TF()
    pdu.from_primitive(primitive)
    assert pdu.encode() == b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03"


def test_a_uid_of_any_length_reaches_us(configured: None) -> None:
    """With our validator a command is not refused for its UID before we see it."""
    request = C_STORE()
    request.AffectedSOPInstanceUID = "9" * 3000
    request.AffectedSOPClassUID = "../../etc/x"
    assert len(request.AffectedSOPInstanceUID or "") == 3000


def test_nothing_of_what_passes_is_logged(configured: None) -> None:
    """No default handlers that print PDUs and datasets, and no records below an unheard-of level."""
    association = Association(AE(), MODE_ACCEPTOR)
    assert not association.get_handlers(evt.EVT_DIMSE_RECV)
    assert not association.get_handlers(evt.EVT_PDU_RECV)
    assert not logging.getLogger("pynetdicom.dsutils").isEnabledFor(logging.ERROR)
    assert not _config.UNRESTRICTED_STORAGE_SERVICE
    assert not _config.STORE_RECV_CHUNKED_DATASET


def test_importing_us_changes_nothing_of_pynetdicom() -> None:
    """The options of the whole process are set when a receiver is made, and not before."""
    program = "import receiver.scp; from pynetdicom import _config; print(_config.LOG_HANDLER_LEVEL)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "standard\n"
