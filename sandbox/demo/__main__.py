"""python -m sandbox.demo [--once]: receiver, uploader, console and sandbox at work on sample instances.

Exit status: 0 if every sample arrived, 1 if one did not or something failed, 2 for a wrong command line; 128 and
the number of the signal if one came before all had been looked at.
"""

import argparse
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import requests

from common.errors import LedgerError
from sandbox.demo import modality, samples
from sandbox.demo.advice import advise
from sandbox.demo.folder import RECEIVER_AE_TITLE, DemoError, Folder, shown
from sandbox.demo.progress import Follower
from sandbox.demo.report import Report, size
from sandbox.demo.signals import Interrupted, Signals
from sandbox.demo.stage import LogLine, Stage
from sandbox.errors import RuleError
from sandbox.rules import parse_rule

_READY_SECONDS = 30.0
_TICK_SECONDS = 0.03
_PACE_SECONDS = 0.1  # between one instance and the next, so that a person can follow


class Demo:
    """One run.

    Args:
        arguments: the command line.
        report: says what happens.
    """

    def __init__(self, arguments: argparse.Namespace, report: Report) -> None:
        self._arguments = arguments
        self._report = report
        self._folder = Folder(arguments.directory)
        self._signals = Signals()
        self._status: int | None = None

    def run(self) -> int:
        """Run it to its end; whatever the end, no process is left.

        Returns:
            The exit status.

        Raises:
            DemoError: it could not go on.
        """
        with self._folder.taken() as lock:
            stage = Stage(self._folder, lock)
            try:
                with self._signals.interrupting():
                    made = self._introduce()
                stage.start()
                with self._signals.interrupting():
                    self._await_ready(stage)
                    self._status = self._follow(stage, made)
                    self._go_on(stage, made)
            except Interrupted:
                with contextlib.suppress(OSError):  # the terminal may be what went away
                    self._report.line()
            finally:
                self._end(stage)
        if self._status is None:
            return 128 + (self._signals.first or 0)
        if self._arguments.once:
            self._report.line()
            if self._status:
                self._report.bad("The demo failed: not all instances arrived, see above.")
            else:
                self._report.good("The demo succeeded: all instances arrived, and nothing is left running.")
        return self._status

    def _introduce(self) -> samples.Samples:
        folder, report = self._folder, self._report
        report.heading("Stowgate demo")
        report.line("  device ── C-STORE ──▶ receiver ──▶ spool ──▶ uploader ── STOW-RS ──▶ sandbox (no archive)")
        folder.write_settings(self._arguments.sandbox_rule)
        for text in folder.moved_ports():
            report.line(f"  {text}")
        incoming, quarantine = folder.left_over()
        if incoming or quarantine:
            report.line(f"  The spool of an earlier run is kept: {incoming} in incoming/, still owed to the sandbox,")
            report.line(f"  and {quarantine} in quarantine/.")

        report.heading(f"Sample instances, drawn by this program, in {shown(folder.samples)}/")
        made = samples.make()
        try:
            for sample in (*made.to_send, made.to_drop):
                (folder.samples / sample.file_name).write_bytes(sample.part10)
            made.picture.save(folder.samples / "fundus-right.png")
        except OSError as error:
            raise DemoError(f"expected to write in {folder.samples}, found: {error.strerror}") from error
        for sample in made.to_send:
            report.line(
                f"  {sample.file_name:<20} {size(len(sample.part10)):>7}  {sample.sop_class:<29}"
                f" {sample.transfer_syntax}"
            )
        report.line(f'  Patients: "{samples.HEALTHY_RETINA}" (DEMO-RETINA) and "{samples.PHANTOM}" (DEMO-CT)')
        return made

    def _await_ready(self, stage: Stage) -> None:
        """Wait until the receiver answers C-ECHO, and sandbox and console HTTP."""
        self._report.heading(
            f"honcho starts receiver, uploader, console and sandbox (whole log: {shown(self._folder.log)})"
        )
        deadline = time.monotonic() + _READY_SECONDS
        waiting: dict[str, Callable[[], bool]] = {
            "the receiver answers C-ECHO": lambda: modality.echo(self._folder.receiver, RECEIVER_AE_TITLE),
            "the sandbox answers HTTP": lambda: self._answers(f"{self._folder.origin}/sandbox"),
            f"the page is at {self._folder.page}": lambda: self._answers(f"{self._folder.page}"),
        }
        while waiting:
            self._pump(stage)
            for text in [text for text, ready in waiting.items() if ready()]:
                del waiting[text]
                self._report.line(f"  {text}")
            if waiting and time.monotonic() > deadline:
                raise DemoError(f"not within {_READY_SECONDS:.0f} seconds: {', '.join(waiting)}")
            time.sleep(_TICK_SECONDS)

    def _answers(self, url: str) -> bool:
        with contextlib.suppress(requests.RequestException), requests.Session() as session:
            session.trust_env = False
            return session.get(url, timeout=5).ok
        return False

    def _follow(self, stage: Stage, made: samples.Samples) -> int:
        """Send the samples, watch them to their end, print the table; returns the exit status."""
        folder, report = self._folder, self._report
        host, port = folder.receiver
        report.heading(f"{modality.AE_TITLE} sends to {RECEIVER_AE_TITLE} at {host}:{port}")
        with contextlib.closing(Follower(folder, made.to_send)) as follower:

            def look(seconds: float) -> None:
                until = time.monotonic() + seconds
                while not follower.over:
                    self._pump(stage)
                    for step, progress in follower.look():
                        report.step(step, progress)
                    if time.monotonic() > until:
                        break
                    time.sleep(_TICK_SECONDS)

            files = [(sample, folder.samples / sample.file_name) for sample in made.to_send]
            for sample, answer in modality.store(files, folder.receiver, RECEIVER_AE_TITLE):
                follower.answered(sample, answer)
                look(_PACE_SECONDS)
            look(self._arguments.deadline)

            report.heading(f"From the ledger, {shown(folder.spool.ledger)}")
            report.table(follower.rows())
            report.line("  Rows in all: " + ", ".join(f"{count} {state}" for state, count in follower.counts().items()))
            missing = follower.missing()
            slowest = follower.slowest()
        report.line()
        if missing:
            report.bad(f"{len(missing)} of {len(made.to_send)} instances did not arrive:")
            for sample, text in missing:
                report.line(f"  {sample.label}: {text}")
            if trouble := stage.last_trouble():
                report.line("  The last trouble in the log:")
                report.log(trouble)
            return 1
        report.good(f"All {len(made.to_send)} instances arrived, the slowest {slowest:.2f} s after its C-STORE began.")
        return 0

    def _go_on(self, stage: Stage, made: samples.Samples) -> None:
        """Without --once: say what to try, and show the log until a signal comes or a process ends."""
        if self._arguments.once:
            if self._status == 0:
                self._report.line("Without ONCE=1 the demo stays up and says what to try next.")
            return
        advise(self._report, self._folder, made)
        self._report.heading("The log of all four. Ctrl-C ends the demo")
        while True:
            self._pump(stage)
            time.sleep(_TICK_SECONDS)

    def _pump(self, stage: Stage) -> None:
        """Show what the processes said, and make sure that they run and that we shall."""
        self._signals.check()
        for line in stage.lines():
            self._report.log(line)
        stage.check()

    def _end(self, stage: Stage) -> None:
        def said(line: LogLine) -> None:
            with contextlib.suppress(OSError):
                self._report.log(line)

        already = self._signals.count
        with contextlib.suppress(OSError):
            self._report.heading("The end: honcho stops all four")
        stage.stop(said, hurry=lambda: self._signals.count > already)


def main(argv: list[str]) -> int:
    """Run the demo.

    Returns:
        The exit status.
    """
    arguments = _parser().parse_args(argv)
    # pydicom warns of file names and values; a terminal that cannot show an arrow must not end us.
    warnings.filterwarnings("ignore", module="pydicom")
    modality.configure()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    report = Report(sys.stdout)
    try:
        return Demo(arguments, report).run()
    except BrokenPipeError:
        return 1
    except (DemoError, LedgerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _rule(text: str) -> str:
    try:
        parse_rule(text)
    except RuleError as error:
        raise argparse.ArgumentTypeError(f"{error}") from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.demo", description="Receiver, uploader and sandbox at work on sample instances."
    )
    parser.add_argument("--once", action="store_true", help="end by itself, with status 0 if all arrived")
    parser.add_argument(
        "--directory", type=Path, default=Path("demo"), help="where everything is kept (default: %(default)s)"
    )
    parser.add_argument("--deadline", type=float, default=60, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument(
        "--sandbox-rule",
        type=_rule,
        action="append",
        default=[],
        metavar="KEY=VALUE,…",
        help="let the sandbox misbehave from its start, as in status=503; repeatable",
    )
    return parser


if __name__ == "__main__":
    exit_status = main(sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    # pynetdicom's threads are waited for otherwise, and one that was interrupted while associating never ends.
    os._exit(exit_status)
