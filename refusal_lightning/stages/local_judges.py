"""Judging models on this machine, for the judges that ask one."""

from __future__ import annotations

import gc
from collections.abc import Callable

from refusal_lightning.config import TrainerConfig
from refusal_lightning.errors import UserError
from refusal_lightning.judges import JudgeSettings
from refusal_lightning.judges.asking import Message
from refusal_lightning.judges.config import JudgeConfig
from refusal_lightning.judges.judge_file import judge_completions
from refusal_lightning.judges.local import LoadLocal, LocalModel
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.stages.console import say


def judge(config: JudgeConfig) -> None:
    """The `judge` command: judging models of this machine run on its GPU, if it has one."""
    judge_completions(config, local_loader(config, TrainerConfig()))


def local_loader(
    settings: JudgeSettings, trainer: TrainerConfig, before: Callable[[], None] = lambda: None
) -> LoadLocal:
    """Loads a judging model on the Trainer's device; ``before`` is called first, to make room."""

    def load(name: str) -> LocalModel:
        before()
        return load_judge(name, settings, trainer)

    return load


def load_judge(name: str, settings: JudgeSettings, trainer: TrainerConfig) -> LocalModel:
    """A Hub model or folder, greedy. Raises UserError where it cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    from refusal_lightning.modules.decoding import decode_greedily
    from refusal_lightning.stages.trainer import main_device

    gc.collect()
    device = main_device(trainer)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    say(f"judge: loading {name} in {settings.local_dtype} on {device}")
    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, settings.local_dtype))
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the judging model {name!r} cannot be loaded ({reason})") from error
    model.requires_grad_(False).eval().to(device)
    ends = [tokenizer.eos_token_id, (model.generation_config or GenerationConfig()).eos_token_id]
    stop_ids = {token for end in ends for token in (end if isinstance(end, list) else [end]) if token is not None}

    def encode(prompt: str) -> list[int]:
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        bos = tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    def generate(prompts: list[str], max_new_tokens: int) -> list[str]:
        encoded = [encode(prompt) for prompt in prompts]
        texts = [""] * len(prompts)
        with torch.inference_mode():
            for index in length_batches([len(ids) for ids in encoded], settings.local_batch_size):
                ids, mask = (t.to(device) for t in left_pad([encoded[i] for i in index]))
                for i, answer in zip(index, decode_greedily(model, ids, mask, stop_ids, max_new_tokens), strict=True):
                    texts[i] = str(tokenizer.decode(answer, skip_special_tokens=True))
        return texts

    def render(messages: list[Message]) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # no template, jinja's errors, or the template's own
            raise UserError(f"the chat template of {name!r} fails: {' '.join(str(error).split())[:200]}") from error

    return LocalModel(generate, render)
