"""select and evaluate over two processes (DDP on the CPU) write the files that one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refusal_lightning.cli import main
from refusal_lightning.store import ActivationStore
from runs import write_config, write_data

ROOT = Path(__file__).parents[1]
RULES = {"mode": "staged", "answer_kl_tokens": 2}


def _results(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((folder / "runs").rglob("*")):
        if path.is_file() and path.name not in ("run.json", "report.html") and ".journal" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    (url,) = (folder / "store").glob("*.zarr")
    store = ActivationStore.open(url)
    for name in store.results():
        arrays, _ = store.load_result(name) or ({}, {})
        found |= {f"{name.partition('-')[0]}/{key}": array.tobytes() for key, array in arrays.items()}
    return found


@pytest.mark.parametrize("stage", ["select", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_the_files_of_one_process(stage, tmp_path, tiny_llama_folder):
    data = write_data(tmp_path / "data", train=12, val=4, test=4)
    results = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        config = write_config(
            folder, tiny_llama_folder, data, data={"n_train": 10, "n_val": 4}, select=RULES, evaluate={"n_test": 4}
        )
        for earlier in ("cache", "select") if stage == "evaluate" else ("cache",):
            assert main([earlier, "--config", config]) == 0
        command = [sys.executable, "-m", "refusal_lightning", stage, "--config", config]
        if name == "two":
            command += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        results.append(_results(folder))
        assert json.loads((folder / "runs" / "tiny" / "run.json").read_text())[stage]
    assert results[0].keys() == results[1].keys()
    assert [key for key in results[0] if results[0][key] != results[1][key]] == []
