"""Taking one instance durably: the steps R1 to R6 of docs/design.md, whoever brings its bytes.

The order is the guarantee. Nothing is acknowledged by this module; when `Reception.commit` has returned, the
instance may be. Whatever fails before that, the file is withdrawn, and nothing of it stays.
"""

import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from common.instance import SOP_CLASS_UID, SOP_INSTANCE_UID, Instance, is_uid, read_dataset, read_head
from common.ledger import Ledger
from common.part10 import part10_header
from common.records import Receipt, Sender
from common.spool import Spool
from common.staging import Staged
from receiver import status
from receiver.files_ahead import FilesAhead
from receiver.group_commit import GroupCommit

_CHECK_ROOM_EVERY = 64 * 1024 * 1024  # bytes
_SOON_FLUSHED = 4 * 1024 * 1024  # bytes; nobody waits for what takes longer to flush
_HEAD = 32 * 1024  # bytes of the dataset that are kept to read its identity from


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that may be acknowledged: its name in incoming/, its size there in bytes, what it is."""

    file_name: str
    size_bytes: int
    instance: Instance


class Intake:
    """Opens receptions. Safe to use from several associations at once.

    Args:
        spool: where the files go.
        ledger: their account.
    """

    def __init__(self, spool: Spool, ledger: Ledger) -> None:
        self._spool = spool
        self._commits = GroupCommit(spool.staging, ledger)
        self._ahead = FilesAhead(spool.staging.open)

    def prepare(self) -> None:
        """Make ready for a next instance, while nobody waits."""
        self._ahead.restock()

    def close(self) -> None:
        """Remove what was made ready. Nothing can be taken any more."""
        self._ahead.close()

    def has_room(self) -> bool:
        """Tell whether more than `min_free` is left; no, if the disk cannot even be asked."""
        try:
            return self._spool.has_room()
        except OSError:
            return False

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> "Reception":
        """Begin to take an instance (R1).

        Args:
            sop_class_uid: Affected SOP Class UID (0000,0002) of the command, without padding.
            sop_instance_uid: Affected SOP Instance UID (0000,1000) of the command, without padding.
            transfer_syntax_uid: of the presentation context.

        Raises:
            Refusal: a UID of the command is malformed, or there is no room.
            OSError: staging/ cannot be written.
        """
        for uid, name in ((sop_class_uid, "Affected SOP Class UID"), (sop_instance_uid, "Affected SOP Instance UID")):
            if not is_uid(uid):
                raise status.malformed_uid(name)
        if not self._spool.has_room():
            raise status.no_room()
        uids = (sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return Reception(self._spool, self._commits, self._ahead.take(), uids)


class Reception:
    """One instance on its way from its sender to incoming/.

    As a context manager it withdraws, at the end of the block, what was not committed.

    Args:
        spool: where the file goes.
        staged: the file, empty.
        commits: make its name durable and record it.
        uids: SOP Class, SOP Instance and Transfer Syntax UID of the command and its presentation context.
    """

    def __init__(self, spool: Spool, commits: GroupCommit, staged: Staged, uids: tuple[str, str, str]) -> None:
        self._spool = spool
        self._commits = commits
        self._sop_class_uid, self._sop_instance_uid, self._transfer_syntax_uid = uids
        self._staged = staged
        self._over = False
        self._expected = False
        self._check_room_at = _CHECK_ROOM_EVERY
        header = part10_header(*uids)
        self._dataset_at = len(header)
        self._head = bytearray()
        self._write(header)

    def write(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append a fragment of the dataset, exactly as it was received.

        Raises:
            Refusal: there is no room for more. The reception is over.
            OSError: it cannot be written. The reception is over.
        """
        if len(self._head) < _HEAD:
            self._head += fragment[: _HEAD - len(self._head)]
        self._write(fragment)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._staged.write(data)
            if self._staged.size_bytes >= self._check_room_at:
                # Instances are gigabytes, and many come at once: the check at the beginning is not enough.
                self._check_room_at = self._staged.size_bytes + _CHECK_ROOM_EVERY
                if not self._spool.has_room():
                    raise status.no_room()  # noqa: TRY301 - withdrawn like any other failure
        except BaseException:
            self.discard()
            raise

    def commit(self, sender: Sender) -> Stored:
        """Make the instance durable and record it (R2 to R6). When this returns, it may be acknowledged.

        Raises:
            Refusal: command and dataset disagree, or there is no dataset.
            InstanceError: the dataset cannot be parsed as far as its identity.
            LedgerError: it cannot be recorded.
            OSError: it cannot be made durable.
        """
        staged = self._staged
        if staged.size_bytes <= _SOON_FLUSHED:
            self._expected = True
            self._commits.expect()
        try:
            staged.begin_flush()
            instance = self._identify()
            staged.sync()
            failed_flushes = self._commits.failed_flushes
            staged.rename()
            expected, self._expected = self._expected, False
            receipt = Receipt(staged.name, instance, sender, staged.size_bytes)
            self._commits.commit(receipt, failed_flushes, expected=expected)
        except BaseException:
            self.discard()
            raise
        self._over = True
        # It is durable and recorded; a close that fails takes nothing of that back.
        with contextlib.suppress(OSError):
            staged.close()
        return Stored(staged.name, staged.size_bytes, instance)

    def discard(self) -> None:
        """Withdraw the instance: it was not acknowledged, the sender still has it. Nothing, once it is committed."""
        if not self._over:
            self._over = True
            if self._expected:
                self._commits.expect_no_more()
            self._staged.withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _identify(self) -> Instance:
        """What the dataset says it is, once command and dataset agree."""
        if self._staged.size_bytes == self._dataset_at:
            raise status.no_dataset()
        size_bytes = self._staged.size_bytes - self._dataset_at
        instance = read_head(self._head, size_bytes, self._transfer_syntax_uid)
        if instance is None:
            with self._staged.reader(self._dataset_at) as reader:
                instance = read_dataset(reader, self._transfer_syntax_uid)
        if instance.sop_class_uid != self._sop_class_uid:
            raise status.mismatch("SOP Class UID", SOP_CLASS_UID)
        if instance.sop_instance_uid != self._sop_instance_uid:
            raise status.mismatch("SOP Instance UID", SOP_INSTANCE_UID)
        return instance
