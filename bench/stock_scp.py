"""`python -m bench.stock_scp PORT FOLDER`: what most people write with pynetdicom, at its quicker end.

Every storage class in every transfer syntax, as pynetdicom's own examples have it; the encoded dataset goes to a file
without being parsed again, and nothing is flushed to the disk.
"""

import sys
from pathlib import Path

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event


def _store(event: Event, folder: Path) -> int:
    assert isinstance(event.request, C_STORE)  # noqa: S101 - it is bound to EVT_C_STORE
    (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
    return 0x0000


def main(port: int, folder: Path) -> None:
    """Serve for ever."""
    entity = AE("STOCK")
    entity.maximum_pdu_size = 131072
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    entity.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, _store, [folder])])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
