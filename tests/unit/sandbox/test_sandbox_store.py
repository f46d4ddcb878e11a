from pathlib import Path

from sandbox.answer import Outcome
from sandbox.journal import KEPT, Journal, Record
from sandbox.part10 import HEAD_BYTES, Identity
from sandbox.store import Partial, Placed, Store


def fill(store: Store, content: bytes) -> Partial:
    partial = store.start()
    partial.write(memoryview(content))
    partial.finish()
    return partial


def test_an_instance_is_under_its_final_name_only_when_it_is_whole(tmp_path: Path) -> None:
    """While a part is written it is in .partial; placed, it is <UID>.dcm and .partial is empty."""
    store = Store(str(tmp_path / "new" / "folder"))
    directory = tmp_path / "new" / "folder"
    partial = fill(store, b"abc")
    assert not list(directory.glob("*.dcm"))
    assert store.place(partial, "1.2.3") is Placed.STORED
    partial.discard()
    assert (directory / "1.2.3.dcm").read_bytes() == b"abc"
    assert (directory / "1.2.3.dcm").stat().st_mode & 0o777 == 0o600
    assert not list((directory / ".partial").iterdir())
    assert store.sizes() == {"1.2.3": 3}


def test_a_second_instance_of_a_uid_counts_only_with_the_same_bytes(tmp_path: Path) -> None:
    """The same bytes are stored again without effect; other bytes are refused, and what was there stays."""
    store = Store(str(tmp_path))
    store.place(fill(store, b"abc"), "1.2.3")
    assert store.place(fill(store, b"abc"), "1.2.3") is Placed.STORED
    assert store.place(fill(store, b"abd"), "1.2.3") is Placed.DIFFERENT
    assert store.place(fill(store, b"abcd"), "1.2.3") is Placed.DIFFERENT
    assert (tmp_path / "1.2.3.dcm").read_bytes() == b"abc"


def test_a_new_start_sweeps_partial_and_finds_the_instances(tmp_path: Path) -> None:
    """What a crash left in .partial is gone, what was stored is there; other files are not the sandbox's."""
    store = Store(str(tmp_path))
    store.place(fill(store, b"abc"), "1.2.3")
    fill(store, b"half")
    (tmp_path / "notes.dcm").write_text("mine")
    again = Store(str(tmp_path))
    assert again.sizes() == {"1.2.3": 3}
    assert not list((tmp_path / ".partial").iterdir())
    assert again.forget() == 1
    assert (tmp_path / "notes.dcm").exists()
    assert not (tmp_path / "1.2.3.dcm").exists()


def test_a_disk_that_does_not_take_a_part_breaks_only_that_part(tmp_path: Path) -> None:
    """A write that fails makes the part broken, and placing it says so; nothing raises, nothing is left."""
    store = Store(str(tmp_path))
    broken = Partial("/dev/full/x")
    broken.write(memoryview(b"abc"))
    broken.finish()
    assert broken.broken
    assert store.place(broken, "1.2.3") is Placed.UNWRITABLE
    assert store.place(fill(store, b"abc"), "1.2.4") is Placed.STORED
    assert store.sizes() == {"1.2.4": 3}


def test_nothing_is_kept_without_a_directory() -> None:
    """--null counts instances and writes no file."""
    store = Store(None)
    partial = fill(store, b"abc")
    assert partial.path is None
    assert store.place(partial, "1.2.3") is Placed.STORED
    assert store.sizes() == {"1.2.3": 3}
    assert store.path_of("1.2.3") is None


def test_the_head_in_memory_is_bounded() -> None:
    """Of a large part only the first HEAD_BYTES stay in memory, and only until they are taken."""
    partial = Partial(None)
    for _ in range(5):
        partial.write(memoryview(bytes(HEAD_BYTES // 4 + 1)))
    assert partial.size_bytes == 5 * (HEAD_BYTES // 4 + 1)
    assert len(partial.take_head()) == HEAD_BYTES
    assert partial.take_head() == b""


def test_the_journal_keeps_the_last_requests_and_counts_all() -> None:
    """Memory does not grow with the number of requests; the totals go on."""
    journal = Journal(quiet=True)
    for number in range(KEPT + 5):
        journal.add(Record("/studies", bytes=number))
    records = journal.as_list()
    assert len(records) == KEPT
    assert records[0]["bytes"] == 5
    assert journal.requests == KEPT + 5


def settled(*outcomes: Outcome, **more: object) -> Record:
    record = Record("/studies", instances=len(outcomes), **more)  # type: ignore[arg-type]
    record.settle(outcomes)
    return record


def test_the_line_of_a_request_is_for_people() -> None:
    """It says what was stored, what failed and why, what was answered, and by which rule."""
    stored, failed = Outcome(Identity()), Outcome(Identity(sop_instance_uid="1.2.3.4"), 0xA700)
    some = settled(stored, stored, stored, failed, status=202)
    assert some.line() == "sandbox: stored 3, failed 1 (1.2.3.4: A700) → 202"
    assert (
        settled(Outcome(Identity(), 0xC000), status=409).line() == "sandbox: stored 0, failed 1 (unnamed: C000) → 409"
    )
    many = settled(*[failed] * 7, status=409).line()
    assert many.count("1.2.3.4: A700") == 5
    assert many.endswith(", …) → 409")
    assert Record("/studies", instances=2, status=503, rule=4).line() == "sandbox: read 2, stored none → 503 (rule 4)"
    assert Record("/studies", status=411, refused="expected x, found y").line() == (
        "sandbox: refused: expected x, found y → 411"
    )
    dropped = Record("/studies", dropped="before", rule=1).line()
    assert dropped == "sandbox: read 0, stored none → connection dropped before (rule 1)"
    assert Record("/studies", dropped="peer").line().endswith("→ the peer closed the connection")
