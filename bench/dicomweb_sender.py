"""`python -m bench.dicomweb_sender URL BATCH < files`: dicomweb-client stores files, so many in a request.

Prints the seconds from the first look at a file to the last answer. It reads files with pydicom, since datasets are
what it takes, and sends with a Content-Length: in chunks, its default for bodies over 1 MB, it is slower still, and
some archives store nothing.
"""

import importlib
import sys
import time
from pathlib import Path

import pydicom

_NO_CHUNKS = 1 << 32


def main(url: str, batch: int, files: list[Path]) -> float:
    """Store all files; the seconds."""
    client = importlib.import_module("dicomweb_client.api").DICOMwebClient(url, chunk_size=_NO_CHUNKS)
    begun = time.perf_counter()
    for begin in range(0, len(files), batch):
        response = client.store_instances([pydicom.dcmread(file) for file in files[begin : begin + batch]])
        if len(response.ReferencedSOPSequence) != len(files[begin : begin + batch]):
            sys.exit("not all instances were named as stored")
    return time.perf_counter() - begun


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), [Path(line) for line in sys.stdin.read().splitlines()]))
