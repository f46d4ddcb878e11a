"""What to try next: commands to copy into another terminal, with the ports and paths of this run."""

import shutil
import sys
from pathlib import Path

from sandbox.demo.folder import RECEIVER_AE_TITLE, Folder, shown
from sandbox.demo.report import Report
from sandbox.demo.samples import Samples


def advise(report: Report, folder: Folder, samples: Samples) -> None:
    """Print it."""
    incoming = shown(folder.spool.incoming)
    quarantine = shown(folder.spool.quarantine.path)
    dropped = samples.to_drop.file_name
    drop = f"cp {shown(folder.samples / dropped)} {incoming}/"
    rules = f"{folder.origin}/sandbox/rules"
    clear = _request("DELETE", rules)

    console = f"{_python()} -m console --config {shown(folder.settings)}"

    report.heading("What to try next: in another terminal, in this folder; watch the log here")
    report.line(
        f"  0  See all of it in a browser: {folder.page} Patients are shown, and you can act, once you are signed in."
    )
    report.command(f"{console} sign-in")
    report.line("     Or here, live; Ctrl-C ends it.")
    report.command(f"{console} watch")
    report.line("  1  Drop a file that no device has sent. It is delivered as if it had come by C-STORE.")
    report.command(drop)
    report.line("  2  Break the sandbox: no archive answers. The file waits in incoming/, whatever time it takes.")
    report.command(_request("POST", rules, "status=503"))
    report.command(drop)
    report.command(f"{console} status")
    report.line("     Mend it. The uploader notices by itself, within 5 seconds.")
    report.command(clear)
    report.line("  3  Let the sandbox refuse an instance for good (FailureReason 0xA900): it goes to quarantine/.")
    report.command(_request("POST", rules, "fail=0xA900"))
    report.command(drop)
    report.command(f"sleep 1; {console} show {dropped}")
    report.line(
        "     Mend it, and release the file, here or on the page; `mv` from quarantine/ to incoming/ does it too."
    )
    report.command(clear)
    report.command(f"{console} release {dropped}")
    report.line("  4  Drop something that is no DICOM file, and look why it was not sent. It is yours to remove.")
    report.command(f"echo hello > {incoming}/hello.txt")
    report.command(f"sleep 1; cat {quarantine}/hello.txt.json")
    report.command(f"{console} discard hello.txt")
    report.line("  5  Ask the ledger: every file that ever entered incoming/, and what became of it.")
    report.command(f"{console} list")
    report.line("  6  Be a device yourself: send an instance by C-STORE.")
    report.command(_store(folder, dropped))
    report.line("  7  Look at what has arrived, with any DICOM viewer; the first photograph is there as a PNG as well.")
    report.command(f"ls -l {shown(folder.sandbox)}/ {shown(folder.samples)}/")
    report.line("     The bytes that arrive are the bytes that were sent: this finds no difference.")
    first = samples.to_send[0]
    arrived = folder.sandbox / f"{first.sop_instance_uid}.dcm"
    report.command(f"cmp {shown(folder.samples / first.file_name)} {shown(arrived)}")
    report.line()
    report.line("  The sandbox is no archive: it keeps nothing safe. Send it nothing that you would miss or that")
    report.line(f"  identifies a patient. {shown(folder.path)}/ is kept for the next demo; remove it to start afresh.")


def _request(method: str, url: str, data: str = "") -> str:
    """A command that sends an HTTP request: by curl, or by Python where there is none."""
    if shutil.which("curl"):
        return f"curl -d {data} {url}" if method == "POST" else f"curl -X {method} {url}"
    call = f"requests.request({method!r}, {url!r}, data={data!r})"
    return f'{_python()} -c "import requests; print({call}.text)"'


def _store(folder: Folder, file_name: str) -> str:
    """A command that sends a sample: by DCMTK, or by pynetdicom where there is none."""
    host, port = folder.receiver
    path = shown(folder.samples / file_name)
    if shutil.which("dcmsend"):
        return f"dcmsend -v -aec {RECEIVER_AE_TITLE} {host} {port} {path}"
    return f"{_python()} -m pynetdicom storescu -v -aec {RECEIVER_AE_TITLE} {host} {port} {path}"


def _python() -> str:
    return shown(Path(sys.executable))
