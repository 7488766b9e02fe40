"""Judging models on this machine. What runs them is given from above: this package's judges load no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.judges.model_judge import Message, Question, any_text
from refusal_lightning.judges.verdict import JudgeResponses


@dataclass(frozen=True)
class LocalModel:
    """A loaded model."""

    generate: Callable[[list[str], int], list[str]]
    """``generate(prompts, max_new_tokens)``: greedy continuations, in order. A prompt is read as it stands, whole, with
    exactly one BOS token in front, whether or not its text spells one."""
    render: Callable[[list[Message]], str]
    """The model's chat template: conversation to prompt, ready for the answer."""
    plain: Callable[[str], str] = str
    """A text in which no control token of the model is spelled any more, so that somebody else's words stay words."""

    def prompt(self, question: Question) -> str:
        """What the model reads."""
        if isinstance(question, str):
            return self.plain(question)
        return self.render([{**message, "content": self.plain(message["content"])} for message in question])


@dataclass(frozen=True)
class LocalLoader:
    """What runs models here, by their names on the Hub or their folders."""

    load: Callable[[str], LocalModel]
    version: Callable[[str], str]
    """What exactly a name stands for now: other weights under it give other answers. Raises UserError."""


@dataclass(frozen=True)
class LocalSource:
    """Asks a model on this machine; it is loaded when the first question comes."""

    loader: LocalLoader
    model: str
    max_new_tokens: int
    dtype: str
    at_once: int = 64
    """Questions per call; their answers are kept before the next call."""

    @property
    def identity(self) -> list[Any]:
        return ["local", self.model, self.loader.version(self.model), self.max_new_tokens, self.dtype]

    def ask(
        self,
        questions: Mapping[str, Question],
        answers: JudgeResponses,
        harmless: Question | None = None,
        readable: Callable[[str], bool] = any_text,
    ) -> dict[str, str]:
        """Every question is answered: nothing is turned down here, and what was cut short would be so again."""
        model = self.loader.load(self.model)
        pending = list(questions.items())
        for start in range(0, len(pending), self.at_once):
            items = pending[start : start + self.at_once]
            prompts = [model.prompt(question) for _, question in items]
            texts = model.generate(prompts, self.max_new_tokens)
            for (key, _), text in zip(items, texts, strict=True):
                answers[key] = text
        return {}

    def check(self, question: Question) -> None:
        """See that there is such a model; loading it is long work itself."""
        self.loader.version(self.model)


def local_source(judge: str, loader: LocalLoader | None, model: str, max_new_tokens: int, dtype: str) -> LocalSource:
    """A model on this machine. Raises UserError where there is nothing to load it with."""
    if loader is None:
        raise UserError(f"{judge} runs {model!r} on this machine, which cannot be done here; leave the judge out")
    return LocalSource(loader, model, max_new_tokens, dtype)
