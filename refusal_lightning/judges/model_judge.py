"""Judges that ask a model: what to ask, whom to ask, and how to read the answer, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from refusal_lightning.io.text import has_half_character
from refusal_lightning.judges.response_cache import response_key
from refusal_lightning.judges.verdict import JudgeResponses, Measures, Pair, Verdict

Message = dict[str, str]
"""``{"role": ..., "content": ...}``"""
_HARMLESS = ("Name a colour.", "Blue is a colour that many people like very much.")
"""A pair that every endpoint takes a question about."""
Question = str | list[Message]
"""A whole prompt as the judging model reads it, or a conversation that its chat template makes one of."""


def any_text(answer: str) -> bool:
    """For sources that are asked by nobody who would read the answer."""
    return True


class Source(Protocol):
    """Where answers come from: an endpoint, or a model on this machine."""

    @property
    def identity(self) -> list[Any]:
        """What an answer depends on beside the question, as JSON."""

    def ask(
        self,
        questions: Mapping[str, Question],
        answers: JudgeResponses,
        harmless: Question | None = None,
        readable: Callable[[str], bool] = any_text,
    ) -> dict[str, str]:
        """Put an answer to each question under its key, as it arrives; returns why some keys have none.

        ``harmless`` is a question that whoever answers anything answers; ``readable`` says whether an answer that was
        cut short still tells what it was asked for.
        """

    def check(self, question: Question) -> None:
        """See that a question can be asked at all. Raises UserError."""


def always_ask(prompt: str, response: str) -> None:
    """For judges that no pair is clear to without asking."""


@dataclass(frozen=True)
class ModelJudge:
    """Asks a source about each pair that it has no answer to yet; equal pairs are asked about once."""

    name: str
    measures: Measures
    source: Source
    question: Callable[[str, str], Question]
    """``question(prompt, response)``: what is asked."""
    read: Callable[[str], Verdict]
    """Reads a raw answer."""
    rule: Callable[[str, str], Verdict | None] = always_ask
    """``rule(prompt, response)``: the verdict on a pair that needs no asking, else None."""
    turned_down: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Why questions got no answer, by key; this judge does not ask them again, the next run's does."""

    def __call__(self, pairs: Sequence[Pair], answers: JudgeResponses) -> list[Verdict]:
        keys = self._questions(pairs)
        missing = {key: q for key, q in self.unanswered(pairs, answers).items() if key not in self.turned_down}
        if missing:
            failures = self.source.ask(missing, answers, self.question(*_HARMLESS), self._is_readable)
            self.turned_down.update(failures)

        def judged(pair: Pair) -> Verdict:
            key, _ = keys[pair]
            if key in answers:
                return self.read(answers[key])
            return Verdict(None, "", note=f"no answer: {self.turned_down.get(key, 'unknown reason')}")

        return [self._unasked(pair) or judged(pair) for pair in pairs]

    def unanswered(self, pairs: Sequence[Pair], answers: JudgeResponses) -> dict[str, Question]:
        """The questions that there are no answers to, by key; equal pairs make one."""
        return {key: question for key, question in self._questions(pairs).values() if key not in answers}

    def _questions(self, pairs: Sequence[Pair]) -> dict[Pair, tuple[str, Question]]:
        """Key and question of each pair that is not clear without asking."""
        asked = {pair: self.question(*pair) for pair in dict.fromkeys(pairs) if self._unasked(pair) is None}
        return {pair: (response_key(self.source.identity, question), question) for pair, question in asked.items()}

    def _unasked(self, pair: Pair) -> Verdict | None:
        """The verdict on a pair that needs no asking, or cannot be asked about, else None."""
        if any(map(has_half_character, pair)):
            return Verdict(None, "", note="not asked: half a character (a lone surrogate) in the prompt or response")
        return self.rule(*pair)

    def _is_readable(self, answer: str) -> bool:
        return self.read(answer).complied is not None

    def check(self) -> None:
        self.source.check(self.question(*_HARMLESS))
