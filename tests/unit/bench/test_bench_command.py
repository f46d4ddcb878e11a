"""The command line of the benchmarks and the turns that peers take."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import deliver, pipeline, receive
from bench.command import Benchmark, arguments, chosen, run
from bench.measuring import OURS, Bench, Row, Target
from bench.peers import BenchError


def row(name: str, measure: Callable[[Bench, str, int], float], *, by_default: bool = True) -> Row:
    return Row(
        name, name.title(), "instances/s", measure, 100, (OURS, "peer"), (Target("peer", 2),), {"peer": 0.1},
        by_default=by_default,
    )  # fmt: skip


def benchmark(*rows: Row) -> Benchmark:
    return Benchmark("bench", "A table.", rows, ("peer",), lambda *_: None)


def ten_a_count(bench: Bench, peer: str, count: int) -> float:
    return 10.0 * count


def test_peers_take_turns_and_ratios_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A B A B; each gets its share of the scaled count; table and JSON have the ratio and its verdict."""
    turns: list[tuple[str, int]] = []

    def measure(bench: Bench, peer: str, count: int) -> float:
        turns.append((peer, count))
        return 30.0 if peer == OURS else 10.0

    output = tmp_path / "out.json"
    options = ["--repetitions", "2", "--scale", "2", "--scratch", str(tmp_path), "--output", str(output)]
    assert run(benchmark(row("a", measure)), options) == 0
    assert turns == [(OURS, 200), ("peer", 20)] * 2
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")]
    times = "\N{MULTIPLICATION SIGN}"
    assert cells[2:6] == ["instances/s", "30 (30 to 30)", "peer", "10 (10 to 10)"]
    assert cells[6:9] == [f"3{times} (3 to 3)", f"≥ 2{times}", "met"]
    (target,) = json.loads(output.read_text())["rows"][0]["targets"]
    assert (target["compared"], target["verdict"]) == ([3.0, 3.0], "met")


@pytest.mark.parametrize(("bound", "verdict"), [(5, "met"), (3, "missed")])
def test_a_bound_without_a_peer_is_an_upper_one(
    bound: float, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory and waiting times are to stay below what is aimed for."""
    bounded = Row("a", "A", "MB", lambda *_: 4.0, 10, (OURS,), (Target(None, bound),))
    assert run(benchmark(bounded), ["--repetitions", "1", "--scratch", str(tmp_path)]) == 0
    assert f"| ≤ {bound} MB | {verdict} |" in capsys.readouterr().out


def test_a_peer_that_fails_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named with its reason and not asked again; the others go on, and the row is closed."""
    asked: list[str] = []
    closed: list[str] = []

    def measure(bench: Bench, peer: str, count: int) -> float:
        asked.append(peer)
        if peer == "peer":
            raise BenchError("it lost one")
        return 1.0

    failing = Row("a", "A", "x", measure, 10, (OURS, "peer"), (Target("peer", 2),), close=lambda: closed.append("a"))
    assert run(benchmark(failing), ["--repetitions", "2", "--scratch", str(tmp_path)]) == 0
    assert asked == [OURS, "peer", OURS]
    assert closed == ["a"]
    said = capsys.readouterr()
    assert "a: peer failed: it lost one" in said.err
    assert "failed |" in said.out


def test_rows_that_are_not_by_default_run_when_named(tmp_path: Path) -> None:
    """By default only those that are; `all` and a name bring in the others, with a count of their own if given."""
    table = benchmark(row("a", ten_a_count), row("b", ten_a_count, by_default=False))

    def names(*options: str) -> list[tuple[str, int]]:
        return [(one.name, count) for one, count in chosen(table, arguments(table, options))]

    assert names() == [("a", 100)]
    assert names("--rows", "all", "--scale", "0.5") == [("a", 50), ("b", 50)]
    assert names("--rows", "b", "--count", "b=7") == [("b", 7)]


@pytest.mark.parametrize("options", [["--rows", "x"], ["--peers", "x"], ["--count", "x=1"]])
def test_unknown_names_are_said(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A row or a peer that is not there ends the run before it begins."""
    assert run(benchmark(row("a", ten_a_count)), options) == 2
    assert "found x" in capsys.readouterr().err


def test_peers_that_are_not_asked_for_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Naming no peer but ourselves leaves the others out and says so."""
    assert run(benchmark(row("a", ten_a_count)), ["--peers", OURS, "--scratch", str(tmp_path)]) == 0
    assert "not asked for" in capsys.readouterr().out


@pytest.mark.parametrize("module", [receive, deliver, pipeline])
def test_every_peer_of_a_real_table_is_known(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Targets name peers of their row, shares too, and names are unique and can be typed."""
    table: Benchmark = module.BENCHMARK  # type: ignore[attr-defined]
    assert len({one.name for one in table.rows}) == len(table.rows)
    for one in table.rows:
        known = {*one.peers, "limit"}
        assert {target.against for target in one.targets if target.against} <= known
        assert set(one.share) <= known
    assert not [peer for peer in table.peers if "," in peer]
    assert run(table, ["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(table.rows)
