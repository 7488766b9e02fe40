"""Compare a run on the demo model with what an independent naive implementation gave (../shared/oracle).

Needs the folder `shared` beside the repository (reference data); says so and ends where it is missing.

    python benchmarks/oracle.py [--work FOLDER] [--staged]

--staged computes only the scores that the choice depends on (a third of the time). Exit status 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from refusal_lightning.cli import main as refusal_lightning

SHARED = Path(__file__).resolve().parents[2] / "shared"
MEAN_DIFF_BOUND, SCORE_BOUND = 1e-4, 2e-3
SCORES = ("refusal_score", "steering_score", "kl_div_score")


def write_config(work: Path) -> Path:
    """The oracle's settings (../shared/oracle/README.md) as a configuration file."""
    config = {
        "model": {"name": "demo", "alias": "organism", "refusal_tokens": ["I"]},
        "data": {"root": str(SHARED / "dataset"), "n_train": 128, "n_val": 32, "seed": 42},
        "store": {"root": str(work / "activation_store")},
        "runs": {"root": str(work / "runs")},
        "cache": {"batch_size": 32},
        "select": {"mode": "exhaustive", "kl_threshold": 0.5, "batch_size": 32},
    }
    path = work / "oracle.yaml"
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def compare(work: Path) -> bool:
    """Print each figure beside its bound; True when all hold."""
    run = work / "runs" / "organism"
    oracle = json.loads((SHARED / "oracle" / "organism.json").read_text())
    record = json.loads((run / "run.json").read_text())["select"]
    kept = [record["prompts"][n]["kept"] for n in ("harmful_train", "harmless_train", "harmful_val", "harmless_val")]
    ok = _check("prompts kept", kept, oracle["kept"], kept == oracle["kept"])

    ours = torch.load(run / "generate_directions" / "mean_diffs.pt", weights_only=True).numpy()
    theirs = torch.load(SHARED / "oracle" / "organism.pt", weights_only=True).numpy()
    norms = np.linalg.norm(theirs, axis=-1)
    error = np.linalg.norm(ours - theirs, axis=-1)
    zero = norms <= 1e-8  # layer 0 at template positions: the naive sums leave rounding errors of 1e-14 there
    relative = (error[~zero] / norms[~zero]).max()
    zero_rows = bool((ours[zero] == 0).all())
    ok &= _check("mean_diffs, largest relative error", f"{relative:.2e}", MEAN_DIFF_BOUND, relative <= MEAN_DIFF_BOUND)
    ok &= _check(f"the {zero.sum()} zero candidates exactly zero", zero_rows, True, zero_rows)

    rows = json.loads((run / "select_direction" / "direction_evaluations.json").read_text())
    reference = {(r["position"], r["layer"]): r for r in oracle["rows"]}
    for name in SCORES:
        both = [(r[name], reference[r["position"], r["layer"]][name]) for r in rows if r[name] is not None]
        worst = max(abs(a - b) for a, b in both)
        ok &= _check(f"{name}, {len(both)} candidates", f"{worst:.2e}", SCORE_BOUND, worst <= SCORE_BOUND)
    chosen = json.loads((run / "direction_metadata.json").read_text())
    ok &= _check("selected at kl_threshold 0.5", chosen, {"pos": -1, "layer": 19}, chosen == {"pos": -1, "layer": 19})
    passing = sorted(
        (r["position"], r["layer"])
        for r in json.loads((run / "select_direction" / "direction_evaluations_filtered.json").read_text())
    )
    expected = [(-1, 17), (-1, 18), (-1, 19)]
    return ok & _check("passing at kl_threshold 0.5", passing, expected, passing == expected)


def _check(what: str, figure: object, wanted: object, holds: bool) -> bool:
    print(f"{'ok  ' if holds else 'FAIL'} {what}: {figure} (wanted {wanted})", flush=True)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs") / "oracle", help="folder for the store and the run")
    parser.add_argument("--staged", action="store_true", help="score only what the choice depends on")
    arguments = parser.parse_args()
    if not (SHARED / "oracle").is_dir():
        print("skipped: the reference data in ../shared are not here")
        return 0
    config = str(write_config(arguments.work))
    mode = ["--select.mode", "staged"] if arguments.staged else []
    for stage in (["cache", "--config", config], ["select", "--config", config, *mode]):
        started = time.perf_counter()
        status = refusal_lightning(stage)
        if status:
            return status
        print(f"{stage[0]}: {time.perf_counter() - started:.0f} s", flush=True)
    ok = compare(arguments.work)
    # At the paper's threshold nothing passes on so small a model: a report, exit status 2, and no traceback.
    status = refusal_lightning(["select", "--config", config, *mode, "--select.kl_threshold", "0.1"])
    ok &= _check("exit status at kl_threshold 0.1", status, 2, status == 2)
    refusal_lightning(["select", "--config", config, *mode])
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
