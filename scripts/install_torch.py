"""Install the pinned torch into the environment whose Python runs this: the CUDA build only where it is of use.

Plain `pip install torch` brings several GB of CUDA libraries on Linux, with or without a GPU. So: with an NVIDIA
driver, pip's own choice; without one, a CPU build. The environment variable TORCH overrides this: `cpu`, `cuda` or
`default` (whatever pip picks). A torch of the pinned version that is already there is left alone.

Usage: python scripts/install_torch.py [constraints.txt]        (standard library only)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP = [sys.executable, "-m", "pip"]


def pinned_version(constraints: Path) -> str:
    match = re.search(r"^torch==([\w.]+)", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        sys.exit(f"{constraints} has no line torch==VERSION")
    return match.group(1)


def installed_version() -> str | None:
    """Version of the torch that is there, without its build tag (`2.13.0` for `2.13.0+cpu`)."""
    try:
        return importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def has_nvidia_driver() -> bool:
    command = shutil.which("nvidia-smi")
    return command is not None and subprocess.run([command, "-L"], capture_output=True).returncode == 0


def needs_cuda_packages(requirements: list[str]) -> bool:
    """Whether a torch wheel's requirements hold CUDA packages (`nvidia-cublas...`, `cuda-toolkit...`)."""
    return any(re.match(r"(nvidia|cuda)[-_]", requirement, re.IGNORECASE) for requirement in requirements)


def default_is_cpu_build(torch: str) -> bool:
    """Whether pip, as it is set up here, would take a CPU build."""
    question = ["install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps", "--report", "-", torch]
    answer = subprocess.run([*PIP, *question], capture_output=True, text=True)
    if answer.returncode != 0:
        return False
    picked = json.loads(answer.stdout)["install"][0]["metadata"]
    return not needs_cuda_packages(picked.get("requires_dist", []))


def install(torch: str, *options: str) -> bool:
    return subprocess.run([*PIP, "install", *options, torch]).returncode == 0


def main(constraints: Path) -> None:
    version = pinned_version(constraints)
    wish = os.environ.get("TORCH", "") or "auto"
    if wish not in ("auto", "cpu", "cuda", "default"):
        sys.exit(f"TORCH={wish} is not known: give cpu, cuda or default, or leave it out")
    if installed_version() == version:
        print(f"torch {version} is installed already")
        return
    torch = f"torch=={version}"
    if wish == "auto":
        # Only on Linux does pip's default bring CUDA; elsewhere there is but one build.
        wish = "cpu" if sys.platform == "linux" and not has_nvidia_driver() else "default"
    if wish == "cpu" and not default_is_cpu_build(torch):
        print(f"Taking the CPU build of torch from {CPU_INDEX} (TORCH=cuda takes the other one)")
        # Its dependencies come with the package's own, from the usual index and under the same constraints.
        if install(torch, "--no-deps", "--retries", "2", "--index-url", CPU_INDEX):
            return
        print("That failed; taking pip's default build of torch, which is larger but works without a GPU too")
    if not install(torch, "--constraint", str(constraints)):
        sys.exit(f"pip could not install {torch}; its messages are above")
    if wish == "cuda":
        probe = [sys.executable, "-c", "import torch, sys; sys.exit(torch.version.cuda is None)"]
        if subprocess.run(probe).returncode != 0:
            sys.exit("TORCH=cuda, but pip's torch here is a CPU build: install a CUDA build into this environment")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "constraints.txt"))
