"""`python -m bench.soak` (`make soak`): the whole pipeline at half load for an hour, with faults switched on and off.

It asks two things: is memory, are descriptors, threads and latency the same at the end as at the beginning, and is
every instance that was acknowledged at the archive, or in quarantine because the archive refused it?

Exit status: 0 if everything stayed flat and nothing was lost, 1 if not, 2 if it could not be run to its end.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import BenchError
from bench.samples import uid
from bench.soak_faults import Schedule, faults
from bench.soak_processes import Processes
from bench.soak_report import Sample, judge, table, verdict, windows
from bench.soak_senders import Senders, sample_of
from common.ledger import Ledger
from common.records import State
from common.spool import Spool
from sandbox.running import RunningSandbox, running_sandbox

_CALIBRATION_SECONDS = 15.0
_DRAIN_SECONDS = 300.0
_LOAD = 0.5
_CALM_SECONDS, _WRONG_SECONDS = 10.0, 10.0
_SAMPLES = 720
_HEADS_CHECKED = 200  # instances of which all but the pixels is compared; of the others the size


def main(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="bench.soak", description="The pipeline at half load, with faults.")
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: %(default)g)")
    parser.add_argument("--rate", type=float, help="instances a second; default: half of what is measured first")
    parser.add_argument("--output", type=Path, default=Path("soak.json"), help="JSON with all samples")
    parser.add_argument("--scratch", type=Path, help="folder on the disk to be used (default: of this system)")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix=".bench-soak-", dir=arguments.scratch))
    try:
        return _soak(folder, arguments)
    except (BenchError, OSError, ValueError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _soak(folder: Path, arguments: argparse.Namespace) -> int:
    with running_sandbox(folder / "archive", "--quiet") as sandbox:
        processes = Processes(folder, sandbox.url)
        try:
            processes.start()
            return _measure(folder, sandbox, processes, arguments)
        finally:
            processes.kill()


def _measure(folder: Path, sandbox: RunningSandbox, processes: Processes, arguments: argparse.Namespace) -> int:
    seconds = 60 * arguments.minutes
    senders = Senders(processes.port, folder / "sent")
    rate = arguments.rate or _LOAD * _capacity(processes, senders)
    _say(f"{arguments.minutes:g} minutes at {rate:.0f} instances a second")
    everything, refusals = faults(sandbox, processes, senders)
    schedule = Schedule(everything, senders, _CALM_SECONDS, _WRONG_SECONDS)
    begun = senders.begin()
    senders.start(rate)
    schedule.start()
    samples = []
    try:
        while (at := time.monotonic() - begun) < seconds:
            figures = {name: child.figures() for name, child in processes.steady.items()}
            samples.append(Sample(at, senders.fault, figures, processes.waiting()))
            time.sleep(max(1.0, seconds / _SAMPLES))
    finally:
        try:
            schedule.stop()
        finally:
            senders.stop()
    _drain(processes)
    problems = _account(sandbox, processes, senders, refusals.refused)
    judgements = judge(samples, senders.answers, seconds)
    grew = [one.name for one in judgements if not one.flat]
    lines = [*table(samples, senders.answers, seconds), "", *verdict(judgements), ""]
    counts = ", ".join(f"{name} {count}x" for name, count in schedule.counts.items())
    lines += [f"faults: {counts}", f"sent again by their senders: {senders.failures} times"]
    lines += [f"acknowledged {len(senders.acknowledged)}, refused by the archive {len(refusals.refused)}"]
    lines += [f"LOST OR WRONG: {problem}" for problem in problems] or ["nothing lost"]
    lines += ["verdict: " + ("flat, nothing lost" if not grew and not problems else "NOT GOOD")]
    _say("\n".join(lines))
    document: dict[str, Any] = {
        "minutes": arguments.minutes,
        "rate": rate,
        "faults": schedule.counts,
        "acknowledged": len(senders.acknowledged),
        "sent_again": senders.failures,
        "problems": problems,
        "judgements": [{**dataclasses.asdict(one), "flat": one.flat} for one in judgements],
        "samples": [dataclasses.asdict(sample) for sample in samples],
        "latency": windows(senders.answers, seconds),
    }
    arguments.output.write_text(json.dumps(document))
    return 1 if grew or problems else 0


def _capacity(processes: Processes, senders: Senders) -> float:
    """Instances a second that senders bring through the whole pipeline, as fast as they can."""
    begun = senders.begin()
    senders.start(None)
    time.sleep(_CALIBRATION_SECONDS)
    senders.stop()
    _drain(processes)
    capacity = len(senders.acknowledged) / (time.monotonic() - begun)
    _say(f"the pipeline takes {capacity:.0f} instances a second")
    senders.answers.clear()
    return capacity


def _drain(processes: Processes) -> None:
    """Wait until incoming/ is empty.

    Raises:
        BenchError: it is not within some minutes.
    """
    deadline = time.monotonic() + _DRAIN_SECONDS
    while waiting := processes.waiting():
        if time.monotonic() > deadline:
            raise BenchError(f"expected incoming/ to be empty after {_DRAIN_SECONDS:.0f} s, found {waiting} files")
        time.sleep(0.1)


def _account(sandbox: RunningSandbox, processes: Processes, senders: Senders, refused: set[int]) -> list[str]:
    """What is wrong with what is where, once everything has stopped."""
    processes.stop()
    spool = Spool(processes.spool)
    ledger = Ledger(spool.ledger)
    try:
        rows = ledger.latest(1_000_000_000)
    finally:
        ledger.close()
    archived = {one["sop_instance_uid"]: int(one["size_bytes"]) for one in sandbox.instances()}
    quarantined = {row.sop_instance_uid for row in rows if row.state is State.QUARANTINE}
    sent = {row.sop_instance_uid for row in rows if row.state is State.SENT}
    acknowledged = {uid(number) for number in senders.acknowledged}
    may_be_refused = {uid(number) for number in refused}
    sizes: dict[int, set[int]] = {}
    for number in senders.acknowledged:
        if uid(number) in archived:
            sizes.setdefault(sample_of(number).pixel_bytes, set()).add(archived[uid(number)])
    found: dict[str, set[Any]] = {
        "acknowledged, but neither at the archive nor in quarantine": acknowledged - archived.keys() - quarantined,
        "in quarantine, though nobody refused it": quarantined - may_be_refused,
        "sent by the ledger, but not at the archive": sent - archived.keys(),
        "neither sent nor in quarantine by the ledger": acknowledged - sent - quarantined,
        "of another size than all others of its kind": {kind for kind, values in sizes.items() if len(values) != 1},
        "of another head than was sent": _altered(sandbox, sorted(senders.acknowledged), archived.keys()),
        "of the ledger, but not in quarantine/": {
            row.file_name for row in rows if row.state is State.QUARANTINE
        }.symmetric_difference(spool.quarantine.names()),
        "left in staging/": set(spool.staging.path.iterdir()),
    }
    problems = [f"{len(values)} {text}, such as {min(map(str, values))}" for text, values in found.items() if values]
    if tracebacks := processes.tracebacks():
        problems.append(f"{tracebacks} unforeseen errors in the logs")
    return problems


def _altered(sandbox: RunningSandbox, numbers: Sequence[int], archived: Any) -> set[int]:
    """Which of some instances, evenly spread, are not at the archive as they were sent."""
    altered = set()
    for number in numbers[:: max(1, len(numbers) // _HEADS_CHECKED)]:
        if uid(number) in archived:
            head = sample_of(number).dataset_head(number)
            if head not in sandbox.instance(uid(number)):
                altered.add(number)
    return altered


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
