"""What we rely on in pynetdicom beyond its public interface. It is pinned; these say what moved when the pin does."""

import inspect
import logging
from collections.abc import Iterator

import pynetdicom
import pytest
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import build_context, negotiate_as_acceptor
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from receiver.server import configure


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


def test_the_reactor_calls_what_we_override() -> None:
    """Once established, an association is in `_run_reactor`, on its own thread; afterwards it is only closed."""
    assert list(inspect.signature(Association._run_reactor).parameters) == ["self"]
    assert list(inspect.signature(Association._serve_request).parameters) == ["self", "msg", "context_id"]
    assert "if self.is_established:\n                with set_timer_resolution(self._timer_resolution):\n" in source(
        Association.run_reactor
    )
    assert "self._run_reactor()" in source(Association.run_reactor)
    assert "target=make_target(self.run_reactor)" in source(Association.__init__)
    assert "target=make_target(self.run_reactor)" in source(DULServiceProvider.__init__)


def test_the_first_primitive_is_waited_for_as_we_end_it() -> None:
    """None from `receive_pdu` before the request means the end; that is what our provider puts there."""
    assert "primitive = self.dul.receive_pdu(wait=True, timeout=self.acse_timeout)" in source(Association.run_reactor)
    assert "if primitive is None:\n                self.kill()" in source(Association.run_reactor)


def test_a_handler_of_the_request_may_reject() -> None:
    """After EVT_REQUESTED an association that was rejected or aborted is not negotiated."""
    assert "if not self.is_aborted and not self.is_rejected:" in source(Association.run_reactor)
    assert list(inspect.signature(ACSE.send_reject).parameters) == ["self", "result", "source", "diagnostic"]
    assert "self.assoc.is_aborted = True" in source(ACSE.send_abort)


def test_an_association_has_what_we_touch() -> None:
    """Attributes that our subclasses read or replace."""
    association = Association(AE(), MODE_ACCEPTOR)
    assert association._accepted_cx == {}
    assert association._server is None
    assert isinstance(association.dul, DULServiceProvider)
    assert association.dul.state_machine.current_state == "Sta1"
    for element in (association.acse, association.dimse):
        assert element.dul is association.dul  # looked up each time, so replacing it is enough
    association.dul = DULServiceProvider(association)
    for element in (association.acse, association.dimse):
        assert element.dul is association.dul


def test_the_upper_layer_can_be_taken_over() -> None:
    """Its thread ends at once when told to, sends nothing by itself in Sta6, and primitives leave by `send_pdu`."""
    text = source(DULServiceProvider.run_reactor)
    assert "if self._kill_thread:" in text
    assert "self._kill_thread = True" in source(DULServiceProvider.kill_dul)
    assert "self.dul.send_pdu(" in source(DIMSEServiceProvider.send_msg)
    assert "self._abort_blocking(block)" in source(Association.abort)
    assert "self._abort_blocking(block)" in source(Association._abort_nonblocking)
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, b"\x03"]]  # type: ignore[list-item]
    pdu = P_DATA_TF()
    pdu.from_primitive(primitive)
    assert pdu.encode() == b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03"


def test_pdus_are_read_through_the_socket_that_we_override() -> None:
    """`recv` is asked for the header and then for the whole rest, and an OSError from it ends the connection."""
    text = source(DULServiceProvider._read_pdu_data)
    assert "self.socket.recv(6)" in text
    assert "self.socket.recv(pdu_length)" in text
    assert text.count("except (OSError, TimeoutError) as exc:") == 2
    assert isinstance(inspect.getattr_static(AssociationSocket, "ready"), property)
    assert "self.socket.ready" in source(DULServiceProvider._is_transport_event)


def test_associations_are_made_as_we_make_them() -> None:
    """What `_create_association` sets, ours sets too; a line more or less must be looked at."""
    set_by_pynetdicom = [
        line.split("=")[0].strip()
        for line in source(RequestHandler._create_association).splitlines()
        if line.strip().startswith("assoc.") and " = " in line
    ]
    assert set_by_pynetdicom == [
        "assoc._server",
        "assoc.name",
        "assoc.acceptor.maximum_length",
        "assoc.acceptor.ae_title",
        "assoc.acceptor.address_info",
        "assoc.acceptor.implementation_class_uid",
        "assoc.acceptor.implementation_version_name",
        "assoc.acceptor.supported_contexts",
        "assoc.requestor.address_info",
    ]
    assert "self.finish_request(request, client_address)" in source(AssociationServer.process_request)


def test_handlers_are_bound_in_two_shapes() -> None:
    """Intervention events have one (function, arguments), notification events a list of them."""
    association = Association(AE(), MODE_ACCEPTOR)
    association.bind(evt.EVT_C_STORE, print, None)
    association.bind(evt.EVT_REQUESTED, print, None)
    assert association._handlers[evt.EVT_C_STORE] == (print, None)
    assert association._handlers[evt.EVT_REQUESTED] == [(print, None)]


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


@pytest.mark.parametrize(
    ("proposed", "result", "reply"),
    [
        (None, 0x00, None),
        ((True, False), 0x00, (True, False)),
        ((True, True), 0x00, (True, False)),
        ((False, True), 0x01, None),
    ],
)
def test_roles_come_out_as_the_standard_says(
    proposed: tuple[bool, bool] | None, result: int, reply: tuple[bool, bool] | None
) -> None:
    """With (SCU, SCP) = (True, False) supported we are SCP, and answer only who proposed (PS3.7 D.3.3.4)."""
    uid = UID("1.2.3")
    wanted = build_context(uid, ["1.2.840.10008.1.2"])
    wanted.context_id = 1
    supported = build_context(uid, ["1.2.840.10008.1.2"])
    supported.scu_role, supported.scp_role = True, False
    (context,), roles = negotiate_as_acceptor([wanted], [supported], {uid: proposed} if proposed else {})
    assert context.result == result
    if result == 0x00:
        assert (context.as_scu, context.as_scp) == (False, True)
        assert [(item.scu_role, item.scp_role) for item in roles] == ([reply] if reply else [])
