"""Build the wheel and the sdist, install the wheel into an empty environment, and use it in a folder that is no clone.

Usage: python scripts/try_wheel.py [--dependencies fresh|borrowed] [FOLDER]      (standard library only)

`fresh` installs everything that the wheel asks for, at the tested versions: minutes. `borrowed` installs the wheel
alone, and takes the dependencies of the Python that runs this, which has `build`, `hatchling` and `twine` (extra dev).
FOLDER (default: a temporary one) gets the files of the build, the environment, and what the commands write.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--data.n_train", "4", "--data.n_val", "2", "--trainer.accelerator", "cpu", "--trainer.progress_bar", "false"]
NEEDED = ("configs/demo.yaml", "configs/schema.json", "dataset/sample/splits/harmful_test.json")
"""What the wheel has beside the package's own files."""

FROM_PYTHON = """
import refusal_lightning as rl
assert "site-packages" in rl.__file__, rl.__file__
model = rl.load_model("demo", alias="smollm2-135m-refuses", device="cpu", progress_bar=False)
cached = rl.cache(model, data={"root": "dataset/sample", "n_train": 4, "n_val": 2}, store="activation_store")
assert cached.result.computed == 0, cached.result  # the command line has done it, for the same store
directions = cached.store["resid_pre"][:4].mean(0)
assert directions.shape == (model.chat.n_layers, model.chat.n_positions, model.chat.d_model)
assert model.generate("Name a fruit.", max_new_tokens=4)[0]
"""
"""The API, where the command line has cached the same prompts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dependencies", choices=["fresh", "borrowed"], default="fresh")
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        wheel = build(folder / "dist")
        python = install(wheel, folder / "env", arguments.dependencies)
        use(python, folder / "elsewhere")


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Run a command and say how long it took; its output. Ends the program where it fails."""
    began = time.perf_counter()
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], cwd=folder, env=outside, capture_output=True, text=True)
    said = " ".join(Path(word).name if Path(word).is_absolute() else str(word) for word in command)
    print(f"{time.perf_counter() - began:6.1f} s  {said.splitlines()[0][:100]}", flush=True)
    if done.returncode:
        sys.exit(f"{said} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, made from the sdist as an index would have it."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(folder.iterdir()))
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in NEEDED if f"refusal_lightning/shipped/{name}" not in names]
    if missing:
        sys.exit(f"the wheel lacks {', '.join(missing)}")
    return wheel


def install(wheel: Path, environment: Path, dependencies: str) -> Path:
    """The Python of a new environment that has the wheel."""
    venv.create(environment, clear=True, with_pip=dependencies == "fresh", symlinks=True)
    python = environment / "bin" / "python"
    if dependencies == "fresh":
        run(python, ROOT / "scripts" / "install_torch.py", ROOT / "constraints.txt")
        run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        run(python, "-m", "pip", "check")
        return python
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # A folder that a .pth file names is searched, but its own .pth files, such as that of this clone, are not read.
    ours = run(sys.executable, "-c", "import torch; print(torch.__path__[0])").strip()
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(ours).parent}\n")
    return python


def use(python: Path, folder: Path) -> None:
    """Use what is installed as its reader would, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    program = python.parent / "refusal-lightning"
    run(program, "--version", folder=folder)
    run(program, "init", "mine", folder=folder)
    run(program, "plan", "--config", "config.yaml", *SMALL, folder=folder / "mine")
    run(program, "cache", "--config", "demo", *SMALL, folder=folder)
    run(program, "completion", "bash", folder=folder)
    run(python, "-c", FROM_PYTHON, folder=folder)


if __name__ == "__main__":
    main()
