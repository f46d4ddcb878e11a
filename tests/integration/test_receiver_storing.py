"""What the receiver stores, and what it answers when it does not."""

import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from receiver_peer import CT, EXPLICIT, VERIFICATION, Aborted, Peer, command, data_pdu, encoded, instance

from common.part10 import part10_header
from common.records import State
from support import canaries
from support.pipeline import Pipeline, wait_for
from support.programs import needs_dcmtk
from support.samples import storable_files

MakePipeline = Callable[..., Pipeline]

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A receiver, listening; nothing delivers."""
    made = make_pipeline("http://127.0.0.1:9/")
    made.start("receiver")
    return made


def only_file(pipeline: Pipeline) -> Path:
    (path,) = pipeline.incoming()
    return path


def test_the_dataset_lies_in_incoming_as_it_was_sent(pipeline: Pipeline) -> None:
    """Behind a deterministic file meta header the file holds exactly the bytes of the C-STORE."""
    dataset = instance()
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(dataset).Status == 0x0000
        peer.release()
    header = part10_header(CT, str(dataset.SOPInstanceUID), EXPLICIT)
    assert only_file(pipeline).read_bytes() == header + encoded(dataset)
    assert pipeline.half_received() == []


def test_the_ledger_row_is_complete(pipeline: Pipeline) -> None:
    """The row names what was received, from whom, and that it is owed."""
    dataset = instance()
    with Peer(pipeline.port) as peer:
        peer.associate(calling="CT-1", called="ANYTHING")
        peer.store(dataset)
    path = only_file(pipeline)
    (row,) = pipeline.rows()
    assert row.file_name == path.name
    assert row.size_bytes == path.stat().st_size
    assert (row.sop_class_uid, row.sop_instance_uid) == (CT, dataset.SOPInstanceUID)
    assert (row.study_instance_uid, row.series_instance_uid) == (dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    assert (row.patient_id, row.modality, row.transfer_syntax_uid) == (canaries.ID, "CT", EXPLICIT)
    assert (row.calling_ae_title, row.called_ae_title, row.peer_address) == ("CT-1", "ANYTHING", "127.0.0.1")
    assert (row.state, row.attempts) == (State.INCOMING, 0)


def test_one_line_says_what_was_stored_and_none_names_the_patient(pipeline: Pipeline) -> None:
    """Each stored instance is logged once, with UIDs and peer, without patient data."""
    dataset = instance()
    with Peer(pipeline.port) as peer:
        peer.associate()
        peer.store(dataset)
        peer.store(encoded(dataset), sop_instance_uid="1.2.3.4")
        peer.store(b"\xff" * 100)
        peer.release()
    log = pipeline.logs()
    (line,) = [line for line in log.splitlines() if " stored " in line]
    for part in (only_file(pipeline).name, dataset.SOPInstanceUID, CT, "calling_ae_title=PEER", "peer=127.0.0.1"):
        assert part in line
    assert log.count("refused") == 2
    assert "Sample" not in log
    assert "4711" not in log


@pytest.mark.parametrize(
    "sop_class_uid",
    ["1.2.826.0.1.3680043.10.1.1", "1.2.840.10008.5.1.4.1.1.9999.1", "1.2.840.10008.5.1.4.1.1.5", "2.25.1"],
    ids=["private", "newer than our dictionary", "retired", "uuid"],
)
def test_any_storage_class_is_served(pipeline: Pipeline, sop_class_uid: str) -> None:
    """A class that no dictionary of ours knows is accepted, stored and recorded like any other."""
    dataset = instance(sop_class_uid)
    with Peer(pipeline.port) as peer:
        assert peer.associate({1: (sop_class_uid, [EXPLICIT])}).contexts == {1: (0, EXPLICIT)}
        assert peer.store(dataset).Status == 0x0000
        assert peer.store(instance(sop_class_uid)).Status == 0x0000
        peer.release()
    assert {row.sop_class_uid for row in pipeline.rows()} == {sop_class_uid}


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, BIG_ENDIAN, DEFLATED, "1.2.826.0.1.3680043.10.2"])
def test_any_transfer_syntax_is_kept(pipeline: Pipeline, transfer_syntax: str) -> None:
    """Whatever syntax was negotiated, the bytes stay as they are and the file meta names it."""
    dataset = instance()
    if transfer_syntax == DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = deflate.compress(encoded(dataset)) + deflate.flush()
    else:
        content = encoded(dataset, transfer_syntax if transfer_syntax.startswith(IMPLICIT) else EXPLICIT)
    with Peer(pipeline.port) as peer:
        peer.associate({5: (CT, [transfer_syntax])})
        answer = peer.store(content, context_id=5, sop_instance_uid=str(dataset.SOPInstanceUID))
    assert answer.Status == 0x0000
    assert only_file(pipeline).read_bytes().endswith(content)
    assert dcmread(only_file(pipeline), specific_tags=[]).file_meta.TransferSyntaxUID == transfer_syntax


def test_contexts_are_decided_one_by_one(pipeline: Pipeline) -> None:
    """First proposed wins, but Explicit over Implicit VR; what is no storage class is refused with its reason."""
    with Peer(pipeline.port) as peer:
        accepted = peer.associate(
            {
                1: (CT, [IMPLICIT, EXPLICIT]),
                3: (CT, [JPEG, IMPLICIT, EXPLICIT]),
                5: (CT, [IMPLICIT, JPEG]),
                7: (CT, [BIG_ENDIAN, EXPLICIT]),
                9: (CT, [EXPLICIT, BIG_ENDIAN]),
                11: ("1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT]),
                13: ("1.2.840.10008.1.3.10", [EXPLICIT]),
                15: (VERIFICATION, [IMPLICIT]),
                17: ("1.2.3.no.uid", [EXPLICIT]),
                19: (CT, ["no.transfer.syntax"]),
            }
        )
        peer.release()
    assert {number: answer for number, answer in accepted.contexts.items() if answer[0] == 0} == {
        1: (0, EXPLICIT),
        3: (0, JPEG),
        5: (0, IMPLICIT),
        7: (0, BIG_ENDIAN),
        9: (0, EXPLICIT),
        15: (0, IMPLICIT),
    }
    assert {number: answer[0] for number, answer in accepted.contexts.items() if answer[0]} == {
        11: 3,
        13: 3,
        17: 3,
        19: 4,
    }


def test_roles_are_answered_as_what_we_are(pipeline: Pipeline) -> None:
    """A proposed SCU role is accepted, an SCP role is not; without a proposal there is no answer."""
    other = "1.2.840.10008.5.1.4.1.1.4"
    with Peer(pipeline.port) as peer:
        contexts = {1: (CT, [EXPLICIT]), 3: (other, [EXPLICIT]), 5: ("2.25.1", [EXPLICIT])}
        accepted = peer.associate(contexts, roles={CT: (1, 1), other: (1, 0)})
        assert accepted.roles == {CT: (1, 0), other: (1, 0)}
        assert {result for result, _ in accepted.contexts.values()} == {0}
        assert peer.store(instance()).Status == 0x0000
        assert peer.store(instance("2.25.1"), context_id=5).Status == 0x0000


def test_a_peer_that_will_only_be_scp_gets_no_context(pipeline: Pipeline) -> None:
    """We send nothing, so a context on which the peer is SCP only is rejected (user rejection)."""
    with Peer(pipeline.port) as peer:
        accepted = peer.associate(roles={CT: (0, 1)})
    assert accepted.contexts[1][0] == 1


def test_our_maximum_pdu_is_announced(make_pipeline: MakePipeline) -> None:
    """`max_pdu` is what the peer is told."""
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver={"max_pdu": "40000 B"})
    pipeline.start("receiver")
    with Peer(pipeline.port) as peer:
        assert peer.associate().max_pdu == 40000


# What is not stored


def refused(pipeline: Pipeline, content: bytes | Dataset | None, status: int, **options: str) -> Dataset:
    """Send it, see it refused with this status, and see that the association and the spool are as before."""
    with Peer(pipeline.port) as peer:
        peer.associate({1: (CT, [EXPLICIT]), 3: (VERIFICATION, [IMPLICIT])})
        for part in peer.store_pdus(content, **options):  # type: ignore[arg-type]
            peer.socket.sendall(part)
        answer = peer.answer()
        assert f"{answer.Status:04X}" == f"{status:04X}"
        assert pipeline.incoming() == []
        assert pipeline.half_received() == []
        assert peer.echo(3).Status == 0x0000
        assert peer.store(instance()).Status == 0x0000
        peer.release()
    assert len(pipeline.rows()) == 1
    assert len(answer.get("ErrorComment", "")) <= 64
    return answer


@pytest.mark.parametrize(
    "uid",
    ["../../etc/x", "1." + "2" * 63, "1..2", "1.2.a", "9" * 3000, ""],
    ids=["path", "65 characters", "empty component", "letter", "very long", "missing"],
)
@pytest.mark.parametrize("which", ["sop_class_uid", "sop_instance_uid"])
def test_a_malformed_uid_in_the_command_is_0117(pipeline: Pipeline, which: str, uid: str) -> None:
    """It is refused as such, is not echoed, and the association stays up."""
    answer = refused(pipeline, instance(), 0x0117, **{which: uid})
    echoed = {"sop_class_uid": "AffectedSOPClassUID", "sop_instance_uid": "AffectedSOPInstanceUID"}
    assert [keyword in answer for keyword in echoed.values()] == [name != which for name in echoed]
    assert "ErrorComment" not in answer


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [("SOPClassUID", 0x00080016), ("SOPInstanceUID", 0x00080018)],
)
def test_command_and_dataset_that_disagree_are_a900(pipeline: Pipeline, keyword: str, tag: int) -> None:
    """The answer names the offending element, and says so in words."""
    dataset = instance()
    uids = {"sop_class_uid": CT, "sop_instance_uid": str(dataset.SOPInstanceUID)}
    setattr(dataset, keyword, "1.2.840.10008.5.1.4.1.1.4" if keyword == "SOPClassUID" else "1.2.3.4")
    answer = refused(pipeline, dataset, 0xA900, **uids)
    assert answer.OffendingElement == tag
    assert "differ" in answer.ErrorComment


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff" * 200, b"\x08\x00\x16\x00UI\x50\x00" + b"1.2", encoded(instance())[:30], bytes(1000)],
    ids=["no dataset", "empty", "rubbish", "cut value", "cut", "zeros"],
)
def test_a_dataset_without_an_identity_is_c000(pipeline: Pipeline, content: bytes | None) -> None:
    """What cannot be parsed as far as its identity is not understood."""
    assert refused(pipeline, content, 0xC000).ErrorComment


def test_a_class_on_the_context_of_another_is_stored(pipeline: Pipeline) -> None:
    """A storage class that its context was not negotiated for is no reason to lose an instance."""
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance("1.2.840.10008.5.1.4.1.1.4")).Status == 0x0000


def test_a_store_on_the_verification_context_is_0122(pipeline: Pipeline) -> None:
    """Verification is no storage class."""
    with Peer(pipeline.port) as peer:
        peer.associate({1: (VERIFICATION, [IMPLICIT])})
        assert peer.store(instance()).Status == 0x0122
        assert peer.echo().Status == 0x0000


def test_a_store_on_a_context_that_was_not_accepted_aborts(pipeline: Pipeline) -> None:
    """A context ID that was rejected or never proposed ends the association, and only that."""
    with Peer(pipeline.port) as peer:
        peer.associate({1: (CT, [EXPLICIT]), 3: ("1.2.840.10008.5.1.4.31", [IMPLICIT])})
        with pytest.raises(Aborted):
            peer.store(instance(), context_id=3)
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000


def test_an_operation_that_was_not_negotiated_aborts(pipeline: Pipeline) -> None:
    """A C-FIND on a storage context ends the association, and only that."""
    with Peer(pipeline.port) as peer:
        peer.associate()
        fields = [(0x0002, CT.encode()), (0x0100, b"\x20\x00"), (0x0110, b"\x01\x00"), (0x0700, b"\x00\x00")]
        peer.socket.sendall(
            data_pdu(1, 3, command([*fields, (0x0800, b"\x01\x00")])) + data_pdu(1, 2, encoded(instance()))
        )
        with pytest.raises(Aborted):
            peer.pdu()
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000


def test_a_spool_that_fails_is_a700_until_it_works_again(pipeline: Pipeline) -> None:
    """Out of resources as long as staging/ cannot be written; the same association goes on afterwards."""
    staging, aside = pipeline.spool.staging.path, pipeline.spool.directory / "aside"
    with Peer(pipeline.port) as peer:
        peer.associate()
        staging.rename(aside)
        answer = peer.store(instance())
        assert answer.Status == 0xA700
        assert answer.ErrorComment
        aside.rename(staging)
        assert peer.store(instance()).Status == 0x0000
        peer.release()
    assert len(pipeline.incoming()) == 1


def test_a_ledger_that_fails_is_a700_until_it_works_again(pipeline: Pipeline) -> None:
    """Without a row nothing is acknowledged and nothing is kept; with a usable ledger the next one is."""
    with Peer(pipeline.port) as peer:
        peer.associate()
        for path in pipeline.spool.directory.glob("ledger.db*"):
            path.unlink()
        pipeline.spool.ledger.mkdir()
        answer = peer.store(instance())
        assert answer.Status == 0xA700
        assert answer.ErrorComment
        assert pipeline.incoming() == []
        pipeline.spool.ledger.rmdir()
        assert peer.store(instance()).Status == 0x0000
        peer.release()
    assert len(pipeline.rows()) == len(pipeline.incoming()) == 1


# Several at once, and real senders


def test_associations_do_not_disturb_each_other(pipeline: Pipeline) -> None:
    """Eight senders at the same time: every instance is stored once, with its own row."""
    failures: list[BaseException] = []

    def send() -> None:
        try:
            with Peer(pipeline.port) as peer:
                peer.associate()
                for _ in range(10):
                    assert peer.store(instance(pixels=50_000)).Status == 0x0000
                peer.release()
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    rows = pipeline.rows()
    assert len({row.sop_instance_uid for row in rows}) == 80
    assert {row.file_name for row in rows} == {path.name for path in pipeline.incoming()}


@needs_dcmtk
def test_dcmtk_verifies_us(pipeline: Pipeline) -> None:
    """Echoscu gets its C-ECHO answered."""
    subprocess.run(["echoscu", "127.0.0.1", str(pipeline.port)], check=True, timeout=30)


@needs_dcmtk
def test_dcmtk_sends_a_folder(pipeline: Pipeline, tmp_path: Path) -> None:
    """Dcmsend sends real files in a dozen transfer syntaxes; each that it could read arrives, in the syntax it used."""
    folder, report = tmp_path / "files", tmp_path / "report"
    folder.mkdir()
    for number, path in enumerate(storable_files()):
        # DCMTK sends "31" for a UID that is encoded as UN.
        if b"\x08\x00\x18\x00UN" not in path.read_bytes():
            shutil.copy(path, folder / f"{number:04}.dcm")
    command = ["dcmsend", "--no-uid-checks", "--no-halt", "--decompress-never", "--create-report-file", str(report)]
    command += ["--scan-directories", "127.0.0.1", str(pipeline.port), str(folder)]
    subprocess.run(command, check=False, capture_output=True, timeout=100)
    sent = []
    for block in report.read_text().split("\n\n"):
        values = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.split("=")[0].strip() for key, value in values.items()}
        if fields.get("DIMSE Status", "<not sent>") != "<not sent>":
            assert fields["DIMSE Status"] == "0x0000 (Success)", block
            sent.append(fields["Network Xfer"])
    assert len(set(sent)) > 8
    assert sorted(sent) == sorted(row.transfer_syntax_uid for row in pipeline.rows())


def test_a_dataset_cut_by_its_sender_leaves_nothing(pipeline: Pipeline) -> None:
    """A connection that ends inside a dataset leaves no file, no row, and a receiver that goes on."""
    with Peer(pipeline.port) as peer:
        peer.associate()
        first, second, *_ = peer.store_pdus(instance(pixels=100_000))
        peer.socket.sendall(first + second)
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000
        peer.release()
    wait_for(lambda: pipeline.half_received() == [])
    assert len(pipeline.incoming()) == len(pipeline.rows()) == 1
