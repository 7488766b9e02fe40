"""What `plan` says beside what runs really take: bytes and files of the store, and the memory of each stage's process.

    python benchmarks/plan.py

On the demo model, and `cache` on the plain model that it is made of too, in their own processes, into fresh folders.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PEAK = "import resource,sys,subprocess;p=subprocess.run(sys.argv[1:]);" + (
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss*1024);sys.exit(p.returncode)"
)


def command(stage: str, folder: Path, *more: str) -> list[str]:
    """A stage on the CPU, with a store in the folder."""
    run = [sys.executable, "-m", "refusal_lightning", stage, "--config", "configs/demo.yaml"]
    if stage != "evaluate":
        run += ["--store.root", str(folder / "store")]
    if stage in ("select", "evaluate"):
        run += ["--runs.root", str(folder / "runs")]
    return [*run, "--trainer.accelerator", "cpu", *more]


def peak(stage: str, folder: Path, *more: str) -> int:
    """The most memory that a stage's process takes, in bytes."""
    run = command(stage, folder, *more, "--trainer.progress_bar", "false")
    done = subprocess.run([sys.executable, "-c", PEAK, *run], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "smollm2-135m-instruct"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--compressions", nargs="+", default=["none", "lz4"])
    parser.add_argument("--wholly", nargs="*", default=["demo"], help="models that go on to select and evaluate")
    args = parser.parse_args()
    print(f"{'':50}{'planned':>14}{'measured':>14}{'planned / measured':>20}")
    for model in args.models:
        for dtype in args.dtypes:
            for compression in args.compressions:
                chosen = ["--model.name", model, "--model.dtype", dtype]
                whole = model in args.wholly and compression == args.compressions[-1]
                with tempfile.TemporaryDirectory() as name:
                    compare(Path(name), f"{model}, {dtype}, {compression}", chosen, compression, whole)


def compare(folder: Path, title: str, model: list[str], compression: str, whole: bool) -> None:
    """One model and store."""

    def row(what: str, planned: float, measured: int) -> None:
        print(f"{f'{title}: {what}':50}{planned:>14,.0f}{measured:>14,}{planned / measured:>20.3f}", flush=True)

    more = [*model, "--store.compression", compression]
    planned_command = command("plan", folder, *more, "--plan.out", str(folder / "plan.json"))
    subprocess.run(planned_command, check=True, capture_output=True)
    plan = json.loads((folder / "plan.json").read_text())
    memory = {stage: figures["memory_per_device"] for stage, figures in plan["stages"].items()}
    row("memory of cache", memory["cache"], peak("cache", folder, *more))
    (store,) = (folder / "store").glob("*.zarr")
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    row("bytes", plan["store"]["bytes" if compression == "none" else "likely_bytes"], sum(sizes))
    row("files", plan["store"]["files"], len(sizes))
    for stage in ("select", "evaluate") if whole else ():
        row(f"memory of {stage}", memory[stage], peak(stage, folder, *model))


if __name__ == "__main__":
    main()
