"""What the benchmarks share: timing two callables in turn, one table, and `--json PATH`."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One comparison. `ratio` says how many times better ours is, whichever direction is better for the unit."""

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float


def rounds(
    candidates: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each callable in each round; they take turns, so that a busy machine slows them alike."""
    for call in candidates.values():
        call()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return times


def seconds(candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each callable over `rounds`."""
    return {name: statistics.median(values) for name, values in rounds(candidates, repeats).items()}


def median_ratio(times: dict[str, list[float]], ours: str, peer: str) -> float:
    """How many times faster ours is, round by round, in the median: steadier than a ratio of medians."""
    return statistics.median(b / a for a, b in zip(times[ours], times[peer], strict=True))


def smaller_is_better(name: str, ours: float, peer: float, unit: str) -> Row:
    return Row(name, ours, peer, unit, peer / ours)


def larger_is_better(name: str, ours: float, peer: float, unit: str) -> Row:
    return Row(name, ours, peer, unit, ours / peer)


def report(rows: Sequence[Row], json_path: Path | None) -> None:
    """Prints the table and, if a path is given, writes [{name, ours, peer, unit, ratio}]."""
    width = max(len(row.name) for row in rows)
    print(f"{'':<{width}} {'ours':>10} {'peer':>10} {'unit':<8} {'ratio':>7}")
    for row in rows:
        print(f"{row.name:<{width}} {row.ours:>10.4g} {row.peer:>10.4g} {row.unit:<8} {row.ratio:>7.1f}")
    if json_path:
        json_path.write_text(json.dumps([row._asdict() for row in rows], indent=1))
