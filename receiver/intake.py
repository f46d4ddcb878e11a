"""Taking one instance durably: the steps R1 to R5 of docs/design.md, whatever it comes from.

The order is the guarantee. Nothing is acknowledged by this module; when `Reception.commit` has returned, the
instance may be. Whatever fails before that, the file is withdrawn, and nothing of it stays.
"""

from dataclasses import dataclass

from common.instance import SOP_CLASS_UID, SOP_INSTANCE_UID, Instance, is_uid, part10_header, read_dataset
from common.ledger import Ledger
from common.records import Sender
from common.spool import Spool
from common.staging import Staged
from receiver.status import INVALID_INSTANCE, MISMATCH, OUT_OF_RESOURCES, Refusal


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that may be acknowledged: its name in incoming/, its size in bytes, what it is."""

    file_name: str
    size_bytes: int
    instance: Instance


class Intake:
    """Opens receptions. Safe to call from several associations at once.

    Args:
        spool: where the files go.
        ledger: their account.
    """

    def __init__(self, spool: Spool, ledger: Ledger) -> None:
        self._spool = spool
        self._ledger = ledger

    def has_room(self) -> bool:
        """Tell whether the spool's disk has more than `min_free`; no, if it cannot even be asked."""
        try:
            return self._spool.has_room()
        except OSError:
            return False

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> "Reception":
        """Begin to take an instance (R1).

        Args:
            sop_class_uid: Affected SOP Class UID (0000,0002) of the command.
            sop_instance_uid: Affected SOP Instance UID (0000,1000) of the command.
            transfer_syntax_uid: of the presentation context.

        Raises:
            Refusal: a UID is malformed, or there is no room.
            OSError: staging/ cannot be written.
        """
        for uid, tag, name in ((sop_class_uid, 0x00000002, "Class"), (sop_instance_uid, 0x00001000, "Instance")):
            if not is_uid(uid):
                raise Refusal(INVALID_INSTANCE, f"Affected SOP {name} UID is no UID (PS3.5 9.1)", tag)
        if not self.has_room():
            raise Refusal(OUT_OF_RESOURCES, "free space is below the limit")
        return Reception(self._spool, self._ledger, sop_class_uid, sop_instance_uid, transfer_syntax_uid)


class Reception:
    """One instance on its way from the sender to incoming/."""

    def __init__(self, spool: Spool, ledger: Ledger, *uids: str) -> None:
        self._spool = spool
        self._ledger = ledger
        self._sop_class_uid, self._sop_instance_uid, self._transfer_syntax_uid = uids
        header = part10_header(*uids)
        self._dataset_at = len(header)
        self._staged: Staged = spool.staging.open()
        self.write(header)

    def write(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append a fragment of the dataset, as it was received.

        Raises:
            OSError: it cannot be written. The reception is over.
        """
        try:
            self._staged.write(fragment)
        except BaseException:
            self.discard()
            raise

    def commit(self, sender: Sender) -> Stored:
        """Make the instance durable and record it (R2 to R5). When this returns it may be acknowledged.

        Raises:
            Refusal: command and dataset disagree.
            InstanceError: the dataset cannot be parsed as far as its identity.
            LedgerError: it cannot be recorded.
            OSError: it cannot be made durable.
        """
        staged = self._staged
        try:
            instance = self._identify()
            staged.sync()
            staged.rename()
            self._spool.staging.sync_incoming()
            self._ledger.received(staged.name, instance, sender, staged.size_bytes)
        except BaseException:
            self.discard()
            raise
        staged.close()
        return Stored(staged.name, staged.size_bytes, instance)

    def discard(self) -> None:
        """Withdraw the instance: it was not acknowledged, the sender still has it."""
        self._staged.withdraw()

    def _identify(self) -> Instance:
        with self._staged.reader(self._dataset_at) as reader:
            instance = read_dataset(reader, self._transfer_syntax_uid)
        if instance.sop_class_uid != self._sop_class_uid:
            raise Refusal(MISMATCH, "SOP Class UID of command and dataset differ", SOP_CLASS_UID)
        if instance.sop_instance_uid != self._sop_instance_uid:
            raise Refusal(MISMATCH, "SOP Instance UID of command and dataset differ", SOP_INSTANCE_UID)
        return instance
