"""What more processes bring: prompts per second of `cache` in one process and in several, one thread each.

    python benchmarks/scaling.py

On the demo model, alternating in one run, the command as users start it, into fresh stores. The rate is the one that
the command prints: loading the model and planning the store are in it, starting Python is not. That all stores have
the same bytes is checked too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from refusal_lightning.data import load_dataset


def write_prompts(folder: Path, count: int) -> list[str]:
    """Two files of numbered instructions of the sample; settings that name them."""
    settings = []
    for name in ("harmful_train", "harmless_train"):
        sample = load_dataset(name, instructions_only=True, root="dataset/sample")
        rows = [{"instruction": f"{sample[i % len(sample)]} ({i})", "category": None} for i in range(count // 2)]
        path = folder / f"{name}.json"
        path.write_text(json.dumps(rows))
        settings.append(f"{name}: {path}")
    return ["--data.sets", "{" + ", ".join(settings) + "}", "--data.n_train", str(count // 2)]


def cache(settings: list[str], root: Path, processes: int) -> tuple[float, str]:
    """Prompts per second, and a digest of the store's arrays."""
    command = [sys.executable, "-m", "refusal_lightning", "cache", "--config", "configs/demo.yaml", *settings]
    command += ["--store.root", str(root), "--trainer.accelerator", "cpu", "--trainer.devices", str(processes)]
    command += ["--trainer.progress_bar", "false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    rate = re.search(r"\(([\d.]+) prompts/s\)", done.stdout)
    assert rate is not None, done.stdout
    content = hashlib.sha256()
    for path in sorted(root.glob("*.zarr/*/c*")):
        content.update(path.read_bytes())
    return float(rate.group(1)), content.hexdigest()


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2048, help="prompts per round (default 2048)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default 3)")
    parser.add_argument("--processes", type=int, default=2, help="processes to compare with one (default 2)")
    args = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], args.processes: []}
    digests = set()
    with tempfile.TemporaryDirectory() as name:
        settings = write_prompts(Path(name), args.prompts)
        for i in range(args.rounds):
            for processes in rates:
                rate, digest = cache(settings, Path(name) / f"{i}-{processes}", processes)
                rates[processes].append(rate)
                digests.add(digest)
                print(f"round {i + 1}: {processes} process(es) {rate:.1f} prompts/s", flush=True)
    one, many = (statistics.median(rates[n]) for n in (1, args.processes))
    ratios = [b / a for a, b in zip(rates[1], rates[args.processes], strict=True)]
    print(f"medians: {one:.1f} and {many:.1f} prompts/s, one thread per process")
    print(f"ratio of the medians {many / one:.2f}, of each round {', '.join(f'{r:.2f}' for r in ratios)}")
    print(f"stores: {'the same bytes' if len(digests) == 1 else 'NOT the same bytes'}")


if __name__ == "__main__":
    main()
