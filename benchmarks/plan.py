"""What `plan` says beside what `cache` really takes: prompts, bytes, files, and the memory of the process.

    python benchmarks/plan.py

On the demo model and on the plain model that it is made of, in their own processes, into fresh stores.
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
    return [*run, "--store.root", str(folder / "store"), "--trainer.accelerator", "cpu", *more]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "smollm2-135m-instruct"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--compressions", nargs="+", default=["none", "lz4"])
    args = parser.parse_args()
    print(f"{'':42}{'planned':>14}{'measured':>14}{'planned / measured':>20}")
    for model in args.models:
        for dtype in args.dtypes:
            for compression in args.compressions:
                more = ["--model.name", model, "--model.dtype", dtype, "--store.compression", compression]
                with tempfile.TemporaryDirectory() as name:
                    compare(Path(name), f"{model}, {dtype}, {compression}", more, compression)


def compare(folder: Path, title: str, more: list[str], compression: str) -> None:
    """One model and store."""
    planned_command = command("plan", folder, *more, "--plan.out", str(folder / "plan.json"))
    subprocess.run(planned_command, check=True, capture_output=True)
    plan = json.loads((folder / "plan.json").read_text())
    run = command("cache", folder, *more, "--trainer.progress_bar", "false")
    done = subprocess.run([sys.executable, "-c", PEAK, *run], check=True, capture_output=True, text=True)
    (store,) = (folder / "store").glob("*.zarr")
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    key = "bytes" if compression == "none" else "likely_bytes"
    rows = [
        ("bytes", plan["store"][key], sum(sizes)),
        ("files", plan["store"]["files"], len(sizes)),
        ("memory", round(plan["stages"]["cache"]["memory_per_device"]), int(done.stdout.split()[-1])),
    ]
    for what, planned, measured in rows:
        print(f"{title + ': ' + what:42}{planned:>14,}{measured:>14,}{planned / measured:>20.3f}", flush=True)


if __name__ == "__main__":
    main()
