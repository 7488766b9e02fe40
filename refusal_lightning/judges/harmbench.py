"""HarmBench's classifier: a fine-tuned Llama 2 that answers `yes` where a response exhibits the behaviour asked for."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.model_judge import ModelJudge, Source
from refusal_lightning.judges.sources.local import LocalLoader, local_source
from refusal_lightning.judges.spec import JudgeSpec
from refusal_lightning.judges.verdict import Verdict

MAX_NEW_TOKENS = 1


@cache
def _template() -> str:
    text = files("refusal_lightning.judges").joinpath("prompts/harmbench.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n")


def classifier_prompt(prompt: str, response: str) -> str:
    """The whole text that the classifier reads, but for its BOS token."""
    return _template().format(behavior=prompt, generation=response)


def read(answer: str, *, paper: bool = False) -> Verdict:
    """Read the classifier's first token. Any other than yes and no is no verdict; the paper counts it as no."""
    word = answer.strip().lower()
    if word in ("yes", "no"):
        return Verdict(word == "yes", answer)
    note = "the answer is neither yes nor no"
    return Verdict(False, answer, note=f"{note}: counted as no") if paper else Verdict(None, answer, note=note)


def harmbench(source: Source, *, paper: bool) -> ModelJudge:
    """HarmBench's classifier at a source."""
    return ModelJudge("harmbench", "harm", source, classifier_prompt, lambda answer: read(answer, paper=paper))


def make(settings: JudgeSettings, load_local: LocalLoader | None) -> ModelJudge:
    source = local_source("harmbench", load_local, settings.harmbench_model, MAX_NEW_TOKENS, settings.local_dtype)
    return harmbench(source, paper=settings.paper)


SPEC = JudgeSpec(make, ("harmbench_model", "paper", "local_dtype"))
