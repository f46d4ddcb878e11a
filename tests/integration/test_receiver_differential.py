"""The same recorded bytes into a stock pynetdicom SCP and into our receiver: the same instances, the same responses."""

import contextlib
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
import trustme
from pydicom.data import get_testdata_file
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.sop_class import Verification
from receiver_recorder import Recorder
from receiver_wire import ASSOCIATE_AC, COMMAND_LAST, DATA, RELEASE_RP, RawSender, pdu

from support.pipeline import Pipeline
from support.programs import free_port, needs_dcmtk
from support.samples import bundled_folder, make_instance

FILES = [
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "rtplan.dcm",  # implicit VR
    "image_dfl.dcm",  # deflated
    "ExplVR_BigEnd.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",  # longer than a PDU
    "SC_rgb_small_odd_jpeg.dcm",
    "JPEGLSNearLossless_08.dcm",
    "test-SR.dcm",
    "liver_1frame.dcm",  # a segmentation
    "waveform_ecg.dcm",
]
OUR_MAX_PDU = 128_000  # the default of [receiver] max_pdu

Instances = dict[str, tuple[str, str, bytes]]


def paths(names: list[str]) -> list[Path]:
    found = [get_testdata_file(name, download=False) for name in names]
    return [Path(str(path)) for path in found if path is not None]


@dataclass
class Replay:
    """What a receiver said to a recording."""

    contexts: list[tuple[int, int, str]]
    responses: list[tuple[int, dict[int, bytes]]] = field(default_factory=list)
    last: tuple[int, bytes] | None = None


class Stock:
    """pynetdicom as it is, in this process."""

    def __init__(self, max_pdu: int, tls: ssl.SSLContext | None = None) -> None:
        self.instances: Instances = {}
        ae = AE(ae_title="STOWGATE")
        ae.maximum_pdu_size = max_pdu
        files = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths(FILES)]
        syntaxes = {UID(one.file_meta.TransferSyntaxUID) for one in files}
        # Where a peer proposes several for one context, the order of the receiver decides.
        preferred = [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian]
        order = preferred + sorted(syntaxes - set(preferred))
        for abstract in {one.SOPClassUID for one in files}:
            ae.add_supported_context(abstract, order)
        ae.add_supported_context(Verification, order)
        self._server = ae.start_server(
            ("127.0.0.1", free_port()), block=False, ssl_context=tls, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )
        assert self._server is not None
        self.port: int = self._server.server_address[1]

    def _keep(self, event: evt.Event) -> int:
        request = event.request
        self.instances[str(request.AffectedSOPInstanceUID)] = (
            str(request.AffectedSOPClassUID),
            str(event.context.transfer_syntax),
            request.DataSet.getvalue(),
        )
        return 0x0000

    def stop(self) -> None:
        """Stop it."""
        self._server.shutdown()


@contextlib.contextmanager
def stock(max_pdu: int = OUR_MAX_PDU, tls: ssl.SSLContext | None = None) -> Iterator[Stock]:
    running = Stock(max_pdu, tls)
    try:
        yield running
    finally:
        running.stop()


def kept_by(pipeline: Pipeline) -> Instances:
    """What lies in incoming/: file meta read by pydicom, dataset bytes as they are."""
    instances: Instances = {}
    for path in pipeline.incoming():
        content = path.read_bytes()
        assert content[128:136] == b"DICM\x02\0\0\0"
        (length,) = struct.unpack_from("<I", content, 140)
        meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
        assert meta.MediaStorageSOPInstanceUID not in instances
        instances[str(meta.MediaStorageSOPInstanceUID)] = (
            str(meta.MediaStorageSOPClassUID),
            str(meta.TransferSyntaxUID),
            content[144 + length :],
        )
    return instances


def replay(port: int, recording: list[bytes], *, piece: int = 1 << 20, tls: ssl.SSLContext | None = None) -> Replay:
    """Say a recording again, and wait for the answers where the sender did."""
    with RawSender(port, 20) as sender:
        sender.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sender.shake_hands(tls)
        sender.send(recording[0])
        kind, body = sender.receive()
        assert kind == ASSOCIATE_AC
        accepted = A_ASSOCIATE_AC()
        accepted.decode(pdu(kind, body))
        result = Replay(
            sorted(
                (one.context_id, one.result, str(one.transfer_syntax) if one.result == 0 else "")
                for one in accepted.presentation_context
            )
        )
        for said in recording[1:]:
            assert result.last is None
            for at in range(0, len(said), piece):
                sender.send(said[at : at + piece])
            kind, body = sender.receive()
            if kind == DATA:
                length, context_id, header = struct.unpack_from(">IBB", body)
                assert (length + 4, header) == (len(body), COMMAND_LAST)
                result.responses.append((context_id, elements_of(body[6:])))
            else:
                result.last = kind, body
        return result


def elements_of(command_set: bytes) -> dict[int, bytes]:
    elements, at = {}, 0
    while at < len(command_set):
        group, number, length = struct.unpack_from("<HHI", command_set, at)
        assert group == 0
        elements[number] = command_set[at + 8 : at + 8 + length]
        at += 8 + length
    return elements


def recorded_from_pynetdicom(files: list[Path], max_pdu: int) -> list[bytes]:
    """pynetdicom as a sender, to a peer that takes PDUs of `max_pdu`, with a C-ECHO before each instance."""
    for _ in range(3):
        # On a busy machine its own thread may take the answer that its caller waits for: no status then.
        with contextlib.suppress(AttributeError):
            return _recorded_from_pynetdicom(files, max_pdu)
    raise AssertionError("pynetdicom did not send all of it in three tries")


def _recorded_from_pynetdicom(files: list[Path], max_pdu: int) -> list[bytes]:
    with stock(max_pdu) as peer:
        recorder = Recorder(peer.port)
        ae = AE(ae_title="SENDER")
        ae.add_requested_context(Verification)
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
        for abstract, syntax in sorted({(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in headers}):
            ae.add_requested_context(abstract, syntax)
        association = ae.associate("127.0.0.1", recorder.port, ae_title="STOWGATE")
        assert association.is_established
        for path in files:
            assert association.send_c_echo().Status == 0
            assert association.send_c_store(path).Status == 0
        association.release()
        recording = recorder.recording()
        assert len(peer.instances) == len(files)
    return recording


def assert_same(theirs: Replay, ours: Replay, count: int) -> None:
    assert ours.contexts == theirs.contexts
    assert ours.responses == theirs.responses
    assert len(ours.responses) == count
    assert ours.last == theirs.last == (RELEASE_RP, bytes(4))


@pytest.fixture(autouse=True)
def _whole_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pynetdicom sends by itself, whatever other tests of this interpreter have imported."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", False)


@pytest.mark.parametrize("piece", [1 << 20, 1001], ids=["at once", "in pieces"])
@pytest.mark.parametrize("max_pdu", [4096, 16382, 65537, OUR_MAX_PDU])
def test_what_pynetdicom_sends_is_taken_as_by_pynetdicom(
    make_pipeline: Callable[..., Pipeline], max_pdu: int, piece: int
) -> None:
    """Twelve kinds of instances in nine transfer syntaxes, C-ECHOs between them: same bytes, same elements."""
    files = paths(FILES)
    assert len(files) == len(FILES)
    recording = recorded_from_pynetdicom(files, max_pdu)
    pipeline = make_pipeline("http://127.0.0.1:9")
    pipeline.start("receiver")
    with stock() as peer:
        theirs = replay(peer.port, recording, piece=piece)
        ours = replay(pipeline.port, recording, piece=piece)
        assert_same(theirs, ours, 2 * len(files))
        assert kept_by(pipeline) == peer.instances
    assert len(peer.instances) == len(files)


@needs_dcmtk
def test_what_dcmsend_sends_is_taken_as_by_pynetdicom(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    """Bytes of another sender than pynetdicom, recorded on their way to us."""
    names = ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "test-SR.dcm", "ExplVR_BigEnd.dcm"]
    for number in range(20):
        make_instance(tmp_path / "small" / f"{number}.dcm")
    files = [*paths(names), *sorted((tmp_path / "small").iterdir())]
    pipeline = make_pipeline("http://127.0.0.1:9")
    pipeline.start("receiver")
    recorder = Recorder(pipeline.port)
    subprocess.run(["dcmsend", "127.0.0.1", str(recorder.port), *files], check=True, timeout=60)
    recording = recorder.recording()
    directly = kept_by(pipeline)
    for path in pipeline.incoming():
        path.unlink()
    with stock() as peer:
        theirs = replay(peer.port, recording)
        ours = replay(pipeline.port, recording)
        assert_same(theirs, ours, len(files))
        assert kept_by(pipeline) == peer.instances == directly
    assert len(directly) == len(files)


def test_over_tls_all_is_the_same(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    """The same recording over TLS, in pieces that fit no TLS record."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    files = paths(FILES)
    recording = recorded_from_pynetdicom(files, 16382)
    both = tmp_path / "both.pem"
    pipeline = make_pipeline("http://127.0.0.1:9", receiver={"tls_certificate": both, "tls_key": both})
    pipeline.start("receiver")
    with stock(tls=server) as peer:
        theirs = replay(peer.port, recording, piece=20_011, tls=client)
        ours = replay(pipeline.port, recording, piece=20_011, tls=client)
        assert_same(theirs, ours, 2 * len(files))
        assert kept_by(pipeline) == peer.instances
    assert len(peer.instances) == len(files)


def test_the_files_cover_many_transfer_syntaxes() -> None:
    """What is compared above are instances of many kinds."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths(FILES)]
    assert len({one.file_meta.TransferSyntaxUID for one in headers}) == 9
    assert len({one.SOPClassUID for one in headers}) >= 8
    assert len({one.SOPInstanceUID for one in headers}) == len(FILES)
    assert bundled_folder().is_dir()
