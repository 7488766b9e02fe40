"""Is one checkout slower than another? Benchmarks of both, alternating, with medians and ratios.

    python benchmarks/against.py BEFORE AFTER [--rounds 5] [--only store generate] [--tiny]

BEFORE and AFTER are folders of the repository (`git worktree add ../before v0.1`). Each runs its own benchmarks on its
own code, with the Python that runs this, on two cores about 15 minutes in all. In every second round AFTER begins.
Status 1 where AFTER is slower than ``--bound`` allows.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """A script's options, both sides' the same, and the figures in what it prints."""

    options: str
    tiny: str
    """Options with which it takes seconds, to see that everything runs."""
    figures: dict[str, str]
    """Name of a figure to the words before it in a line of output."""
    seconds: bool = False
    """Whether less is better."""


BENCHMARKS = {
    "cache": Benchmark(
        "--prompts 64 --rounds 1 --no-memory", "--prompts 16 --rounds 1 --no-memory", {"prompts/s": "cache "}
    ),
    "selection": Benchmark(
        "--data dataset/sample --n-train 8 --n-val 4 --modes staged --rounds 1 --every 1000",
        "--data dataset/sample --n-train 4 --n-val 2 --modes staged --rounds 1 --every 1000",
        {"seconds": "staged "},
        seconds=True,
    ),
    # The first of the three also tries which shortcuts are exact, once per model and process.
    "generate": Benchmark("--quick --rounds 3", "--quick --rounds 1", {"tokens/s": "ours "}),
    "store": Benchmark(
        "--gib 0.25 --rounds 5", "--gib 0.01 --rounds 1", {"write GiB/s": "write store ", "read GiB/s": "read store "}
    ),
}


def measure(checkout: Path, name: str, options: str) -> dict[str, float]:
    """Run a checkout's benchmark; its figures. Ends the program with what it printed if it fails."""
    command = [sys.executable, f"benchmarks/{name}.py", *options.split()]
    done = subprocess.run(command, cwd=checkout, env=environment(checkout), capture_output=True, text=True)
    found = {
        figure: re.search(rf"^{re.escape(words)}\s*([\d.]+)", done.stdout, re.MULTILINE)
        for figure, words in BENCHMARKS[name].figures.items()
    }
    if done.returncode or None in found.values():
        raise SystemExit(f"{checkout}: {' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return {figure: float(match[1]) for figure, match in found.items() if match}


def environment(checkout: Path) -> dict[str, str]:
    """Variables with which Python finds a checkout's own package before an installed one."""
    return {**os.environ, "PYTHONPATH": str(checkout)}


def check_side(checkout: Path) -> None:
    """Ends the program unless the folder's package is what would run there."""
    ask = [sys.executable, "-c", "import refusal_lightning; print(refusal_lightning.__file__)"]
    done = subprocess.run(ask, cwd="/", env=environment(checkout), capture_output=True, text=True)
    if not done.stdout or checkout not in Path(done.stdout.strip()).resolve().parents:
        raise SystemExit(
            f"{checkout} is no checkout of refusal_lightning (found: {done.stdout.strip() or done.stderr})"
        )


def compare(sides: tuple[Path, Path], name: str, rounds: int, tiny: bool) -> dict[str, float]:
    """Print both sides' medians of each figure; median over rounds of how many times as fast AFTER is."""
    benchmark = BENCHMARKS[name]
    options = benchmark.tiny if tiny else benchmark.options
    times: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            for figure, value in measure(sides[side], name, options).items():
                times[figure][side].append(value)
    ratios = {}
    for figure, (before, after) in times.items():
        each = [b / a if benchmark.seconds else a / b for b, a in zip(before, after, strict=True)]
        ratios[f"{name} {figure}"] = ratio = statistics.median(each)
        print(
            f"{name + ' ' + figure:<20} {statistics.median(before):10.2f} {statistics.median(after):10.2f}   "
            f"{ratio:.3f} ({min(each):.3f}-{max(each):.3f})",
            flush=True,
        )
    return ratios


def main() -> int:
    """Run the comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="times that each side is measured (default 5)")
    parser.add_argument("--only", nargs="+", default=list(BENCHMARKS), choices=list(BENCHMARKS))
    parser.add_argument("--bound", type=float, default=0.97, help="AFTER's speed per BEFORE's, at least (default 0.97)")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds and say nothing about speed")
    args = parser.parse_args()
    sides = (args.before.resolve(), args.after.resolve())
    for side in sides:
        check_side(side)
    print(f"{'':<20} {'before':>10} {'after':>10}   after's speed / before's, median and range of {args.rounds} rounds")
    ratios: dict[str, float] = {}
    for name in args.only:
        ratios |= compare(sides, name, args.rounds, args.tiny)
    slower = [name for name, ratio in ratios.items() if ratio < args.bound]
    print(f"slower than {args.bound} of before: {', '.join(slower)}" if slower else f"none below {args.bound}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
