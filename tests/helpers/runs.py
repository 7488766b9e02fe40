"""Made-up data and configurations for tests that run whole stages."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

WORDS = ("walk", "garden", "letter", "forest", "vector", "people", "list", "children", "France", "week", "help")


def instructions(kind: str, split: str, count: int) -> list[dict[str, str]]:
    """Made-up requests of several lengths; a random model neither refuses nor complies, so any text will do."""
    verb = "Explain" if kind == "harmful" else "Write"
    rows = []
    for i in range(count):
        words = [WORDS[(i * 5 + j * 3 + len(split)) % len(WORDS)] for j in range(1 + i % 9)]
        rows.append({"instruction": f"{verb} {split} {i}: {' '.join(words)}", "category": f"c{i % 2}"})
    return rows


def write_data(root: Path, train: int = 24, val: int = 6, test: int = 5) -> Path:
    """Split files of made-up requests."""
    (root / "splits").mkdir(parents=True)
    for kind in ("harmful", "harmless"):
        for split, count in (("train", train), ("val", val), ("test", test)):
            path = root / "splits" / f"{kind}_{split}.json"
            path.write_text(json.dumps(instructions(kind, split, count)))
    return root


def write_config(folder: Path, model_folder: Path, data_root: Path, /, **changes: dict) -> str:
    """A configuration without any filter, since a random model passes none; the file's path."""
    config: dict[str, dict[str, Any]] = {
        "model": {"name": str(model_folder), "alias": "tiny", "refusal_tokens": ["I"]},
        "data": {"root": str(data_root), "n_train": 20, "n_val": 5},
        "store": {"root": str(folder / "store"), "shard_mb": 0.02},
        "runs": {"root": str(folder / "runs")},
        "trainer": {"accelerator": "cpu", "progress_bar": False},
        "cache": {"batch_size": 3},
        "select": {
            "mode": "exhaustive",
            "harmful_threshold": None,
            "harmless_threshold": None,
            "kl_threshold": None,
            "induce_threshold": None,
            "batch_size": 4,
        },
        "evaluate": {"max_new_tokens": 6, "batch_size": 2},
    }
    for section, values in changes.items():
        config[section] = {**config.get(section, {}), **values}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def store_files(folder: Path) -> dict[str, bytes]:
    """Every file of the one store under a folder, derived results apart."""
    (store,) = folder.glob("*.zarr")
    files = (p for p in sorted(store.rglob("*")) if p.is_file() and "results" not in p.relative_to(store).parts)
    return {str(p.relative_to(store)): p.read_bytes() for p in files}


def logged_by_csv(run: Path, stage: str, version: int = 0) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of everything that the CSV logger has of a job of a stage, by name."""
    path = run / "logs" / "csv" / stage / f"version_{version}" / "metrics.csv"
    found: dict[str, list[tuple[int, float]]] = {}
    for row in csv.DictReader(path.open(newline="", encoding="utf-8")):
        for name, value in row.items():
            if name != "step" and value:
                found.setdefault(name, []).append((int(row["step"]), float(value)))
    return found
