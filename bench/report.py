"""What was measured, as a table for people and as JSON; and on which machine."""

import importlib.metadata
import os
import platform
import re
import sqlite3
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measuring import OURS, Row, Target
from bench.peers import ROOT

FAILED = "failed"
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass
class Result:
    """The values of a row, one for each repetition, and who was left out why."""

    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def compared(self, target: Target) -> list[float]:
        """For each repetition, what a target bounds: a ratio, or our value itself."""
        ours = self.values.get(OURS, [])
        if target.against is None:
            return ours
        return [a / b for a, b in zip(ours, self.values.get(target.against, []), strict=False)]

    def verdict(self, target: Target) -> str:
        """The median against the target."""
        compared = self.compared(target)
        if FAILED in (self.skipped.get(OURS), self.skipped.get(target.against or OURS)):
            return FAILED
        if not compared:
            return "skipped"
        median = statistics.median(compared)
        return "met" if (median <= target.bound if target.against is None else median >= target.bound) else "missed"


def table(results: Sequence[Result]) -> str:
    """The results in Markdown: median (lowest to highest)."""
    lines = [
        "| work | unit | Stowgate | peer | of the peer | ratio | target | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        row = result.row
        ours = _spread(result.values.get(OURS, []))
        for target in row.targets:
            against = target.against or ""
            theirs = result.skipped.get(against) or _spread(result.values.get(against, []))
            ratio = _spread(result.compared(target), _TIMES) if target.against else ""
            bound = f"≥ {target.bound:g}{_TIMES}" if target.against else f"≤ {target.bound:g} {row.unit}"
            cells = (
                row.title,
                row.unit,
                ours,
                against,
                theirs if against else "",
                ratio,
                bound,
                result.verdict(target),
            )
            lines.append(f"| {' | '.join(cells)} |")
        judged = {OURS, *(target.against for target in row.targets)}
        for peer in row.peers:
            if peer not in judged:
                theirs = result.skipped.get(peer) or _spread(result.values.get(peer, []))
                lines.append(f"| {row.title} | {row.unit} | | {peer} | {theirs} | | | |")
    return "\n".join(lines)


def _spread(values: Sequence[float], suffix: str = "") -> str:
    if not values:
        return "none"
    low, high = _number(min(values)), _number(max(values))
    middle = f"{_number(statistics.median(values))}{suffix}"
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def document(results: Sequence[Result], scratch: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything for the JSON file."""
    return {
        "machine": machine(scratch),
        "settings": settings,
        "rows": [
            {
                "name": result.row.name,
                "title": result.row.title,
                "unit": result.row.unit,
                "values": result.values,
                "skipped": result.skipped,
                "targets": [
                    {
                        "against": target.against,
                        "bound": target.bound,
                        "compared": result.compared(target),
                        "median": statistics.median(result.compared(target)) if result.compared(target) else None,
                        "verdict": result.verdict(target),
                    }
                    for target in result.row.targets
                ],
            }
            for result in results
        ],
    }


def machine(scratch: Path) -> dict[str, Any]:
    """Processor, kernel, disk and versions."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "disk": _filesystem(scratch),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{package: _package(package) for package in ("pydicom", "pynetdicom", "requests", "dicomweb-client")},
        "curl": _version(["curl", "--version"]),
        "dcmtk": _version(["dcmsend", "--version"]),
        "orthanc": _version(["Orthanc", "--version"]),
        "stowgate": _version(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
    }


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version(command: list[str]) -> str | None:
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except OSError:
        return None
    return lines[0].strip("$ ") if lines else None


def _filesystem(folder: Path) -> str:
    """Device, type and options of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return " ".join(max(holding, key=lambda mount: len(mount[1]))[index] for index in (0, 2, 3)) if holding else ""
