"""Judging models on this machine: a Hub model or a folder, loaded and asked greedily."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.config import TrainerConfig
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import digest, file_digest
from refusal_lightning.io.network import cut_off
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.model_judge import Message
from refusal_lightning.judges.sources.local import LocalLoader, LocalModel
from refusal_lightning.models.fingerprint import weights_digest
from refusal_lightning.models.tokens import left_pad, length_batches

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def local_loader(settings: JudgeSettings, trainer: TrainerConfig) -> LocalLoader:
    """Loads judging models on the Trainer's device; what their names stand for is looked up once."""

    def load(name: str) -> LocalModel:
        return load_judge(name, settings, trainer)

    return LocalLoader(load, cache(judge_version))


def judge_version(name: str) -> str:
    """The commit of a Hub model, or a hash of a folder's weights, configuration and tokenizer. Raises UserError."""
    from transformers.utils import cached_file, extract_commit_hash

    folder = Path(name)
    if folder.is_dir():
        texts = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jinja", ".model", ".txt"))
        return digest([weights_digest(folder), [[path.name, file_digest(path)] for path in texts]])
    cut_off()
    try:
        return str(extract_commit_hash(str(cached_file(name, "config.json")), None))
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from error


def _unloadable(name: str, error: Exception) -> UserError:
    return UserError(f"the judging model {name!r} cannot be loaded ({' '.join(str(error).split())[:200]})")


def load_judge(
    name: str, settings: JudgeSettings, trainer: TrainerConfig, device: torch.device | None = None
) -> LocalModel:
    """A Hub model or folder, greedy, on a device (by default the Trainer's), or over all where the Trainer's strategy
    is `device_map`. Raises UserError where it cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from refusal_lightning.distributed.trainer import main_device

    gc.collect()
    device = device or main_device(trainer)
    spread = trainer.strategy == "device_map" and device.type == "cuda"
    if device.type == "cuda":
        torch.cuda.empty_cache()
    log.info(f"judge: loading {name} in {settings.local_dtype} on {device}")
    disable_progress_bar()
    commit = None if Path(name).is_dir() else judge_version(name)
    try:
        # Said outright: left unsaid, transformers asks on a terminal whether the repository's code may run.
        tokenizer = AutoTokenizer.from_pretrained(name, revision=commit, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=commit,
            dtype=getattr(torch, settings.local_dtype),
            trust_remote_code=False,
            **({"device_map": "auto"} if spread else {}),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unloadable(name, error) from error
    model.requires_grad_(False).eval()
    if not spread:
        model.to(device)

    def render(messages: list[Message]) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # no template, jinja's errors, or the template's own
            raise UserError(f"the chat template of {name!r} fails: {' '.join(str(error).split())[:200]}") from error

    return LocalModel(_greedy(model, tokenizer, device, settings.local_batch_size), render, plain_text(tokenizer))


def _greedy(model: Any, tokenizer: Any, device: torch.device, batch_size: int) -> Callable[[list[str], int], list[str]]:
    """Greedy continuations of prompts, each with exactly one BOS token in front."""
    import torch
    from transformers import GenerationConfig

    from refusal_lightning.inference.decoding import StoppingRule, decode_greedily

    ends = [tokenizer.eos_token_id, (model.generation_config or GenerationConfig()).eos_token_id]
    stop_ids = {token for end in ends for token in (end if isinstance(end, list) else [end]) if token is not None}

    def encode(prompt: str) -> list[int]:
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        bos = tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    def generate(prompts: list[str], max_new_tokens: int) -> list[str]:
        encoded = [encode(prompt) for prompt in prompts]
        stopping = StoppingRule(stop_ids, max_new_tokens)
        texts = [""] * len(prompts)
        with torch.inference_mode():
            for index in length_batches([len(ids) for ids in encoded], batch_size):
                ids, mask = (t.to(device) for t in left_pad([encoded[i] for i in index]))
                for i, answer in zip(index, decode_greedily(model, ids, mask, stopping), strict=True):
                    texts[i] = str(tokenizer.decode(answer, skip_special_tokens=True))
        return texts

    return generate


def plain_text(tokenizer: Any) -> Callable[[str], str]:
    """Breaks up what the tokenizer would read as a control token (`<eos>` becomes `< eos>`), however it is nested."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    spelled = sorted({one for one in [*added, *tokenizer.all_special_tokens] if len(one) > 1 and one.strip()}, key=len)
    if not spelled:
        return str
    control = re.compile("|".join(re.escape(one) for one in reversed(spelled)))

    def plain(text: str) -> str:
        while control.search(text):
            text = control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text

    return plain
