"""What is read of a model before its weights: where it is, its configuration, its tokenizer, its end tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.network import cut_off
from refusal_lightning.io.text import one_line
from refusal_lightning.models.config_file import plain_config
from refusal_lightning.models.demo import DEMO_MODELS, demo_model_folder
from refusal_lightning.models.qwen1.checkpoint import MODEL_TYPE, qwen1_config


@dataclass(frozen=True)
class ModelFiles:
    """A model's configuration and tokenizer as transformers has them."""

    config: Any
    tokenizer: Any
    end_ids: frozenset[int]
    """Ids that end a text, by the generation configuration (else the configuration) and the tokenizer."""
    commit: str | None
    """The Hub's commit that the files are of; None for a folder."""
    is_qwen1: bool
    """Whether the configuration is that of a first-generation Qwen model as a Qwen-2 one."""


def model_source(name: str) -> str:
    """A folder or a hub name, from what the user wrote. Raises UserError for a folder without a model."""
    if name in DEMO_MODELS:
        return str(demo_model_folder(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: folder {name!r} holds no model (no config.json in it)")
        return str(path)
    if path.exists():
        raise UserError(f"model.name: {name!r} is a file; give the folder that holds config.json and the weights")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"model.name: there is no folder {name!r}")
    return name


def read_model_files(source: str, name: str, revision: str | None, trust: bool) -> ModelFiles:
    """Read all but the weights of a model, of one commit. Raises UserError that says why it cannot be had."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import cached_file, extract_commit_hash

    from refusal_lightning.models.qwen1.tokenizer import VOCABULARY_FILE, qwen1_tokenizer

    if not Path(source).is_dir():
        cut_off()
    try:
        path = str(cached_file(source, "config.json", revision=revision))
        # transformers 5 no longer notes the commit in the configuration; the path in the Hub's cache has it.
        commit = None if Path(source).is_dir() else extract_commit_hash(path, None)
        exact = commit or revision
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        is_qwen1 = values.get("model_type") == MODEL_TYPE
        if is_qwen1:
            config: Any = qwen1_config(values)
            tokenizer: Any = qwen1_tokenizer(Path(str(cached_file(source, VOCABULARY_FILE, revision=exact))))
        else:
            plain = plain_config(source, exact, values)
            config = plain or AutoConfig.from_pretrained(source, revision=exact, trust_remote_code=trust)
            tokenizer = AutoTokenizer.from_pretrained(source, revision=exact, trust_remote_code=trust, config=plain)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(_why_not(name, error)) from error
    try:
        ends = GenerationConfig.from_pretrained(source, revision=exact or "main").eos_token_id
    except OSError:
        ends = None
    ends = ends if ends is not None else getattr(config, "eos_token_id", None)
    end_ids = {ends} if isinstance(ends, int) else set(ends or ())
    if tokenizer.eos_token_id is not None:
        end_ids.add(tokenizer.eos_token_id)
    return ModelFiles(config, tokenizer, frozenset(end_ids), commit, is_qwen1)


def _why_not(name: str, error: Exception) -> str:
    text = one_line(error)
    if _is_refused(error):
        return (
            f"model {name!r} is gated: accept its licence on its page at huggingface.co, then set HF_TOKEN or run "
            "`hf auth login`"
        )
    if "trust_remote_code" in text:
        return f"model {name!r} needs code of its own repository; read it, then give --model.trust_remote_code true"
    if "does not recognize this architecture" in text:
        return f"model {name!r} is of an architecture that this release of transformers has no class for"
    if cut_off() and not Path(name).exists():
        return (
            f"model {name!r} is no folder here and not in the cache, and the Hub cannot be reached; "
            "without network, fetch it elsewhere first (docs/models.md)"
        )
    return f"model {name!r} cannot be read (no such folder, not on the Hub, or no network): {text[:300]}"


def _is_refused(error: BaseException | None) -> bool:
    """Whether the Hub refuses access: to this person, or to anyone without a token."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    while error is not None:
        if isinstance(error, GatedRepoError) or "gated repo" in str(error):
            return True
        if type(error) is HfHubHTTPError and error.response.status_code in (401, 403):
            return True
        error = error.__cause__
    return False
