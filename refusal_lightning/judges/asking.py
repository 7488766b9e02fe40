"""Judges that ask a model: what to ask, whom to ask, and how to read the answer, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from refusal_lightning.judges.answers import answer_key
from refusal_lightning.judges.verdict import Answers, Measures, Pair, Verdict

Message = dict[str, str]
"""``{"role": ..., "content": ...}``"""
Question = str | list[Message]
"""A whole prompt as the judging model reads it, or a conversation that its chat template makes one of."""


class Source(Protocol):
    """Where answers come from: an endpoint, or a model on this machine."""

    @property
    def identity(self) -> list[Any]:
        """What an answer depends on beside the question, as JSON."""

    def ask(self, questions: Mapping[str, Question], answers: Answers) -> dict[str, str]:
        """Put an answer to each question under its key, as it arrives; returns why some keys have none."""

    def check(self, question: Question) -> None:
        """See that a question can be asked at all. Raises UserError."""


def always_ask(prompt: str, response: str) -> None:
    """For judges that no pair is clear to without asking."""


@dataclass(frozen=True)
class AskingJudge:
    """Asks a source about each pair that it has no answer to yet; equal pairs are asked about once."""

    name: str
    measures: Measures
    source: Source
    question: Callable[[str, str], Question]
    """``question(prompt, response)``: what is asked."""
    read: Callable[[str], Verdict]
    """Reads a raw answer."""
    unasked: Callable[[str, str], Verdict | None] = always_ask
    """``unasked(prompt, response)``: the verdict on a pair that needs no asking, else None."""

    def __call__(self, pairs: Sequence[Pair], answers: Answers) -> list[Verdict]:
        clear = [self.unasked(*pair) for pair in pairs]
        keys = self._questions(pairs)
        failures = self.source.ask(missing, answers) if (missing := self.unanswered(pairs, answers)) else {}

        def judged(pair: Pair) -> Verdict:
            key, _ = keys[pair]
            if key in answers:
                return self.read(answers[key])
            return Verdict(None, "", note=f"no answer: {failures.get(key, 'unknown reason')}")

        return [verdict or judged(pair) for pair, verdict in zip(pairs, clear, strict=True)]

    def unanswered(self, pairs: Sequence[Pair], answers: Answers) -> dict[str, Question]:
        """The questions that there are no answers to, by key; equal pairs make one."""
        return {key: question for key, question in self._questions(pairs).values() if key not in answers}

    def _questions(self, pairs: Sequence[Pair]) -> dict[Pair, tuple[str, Question]]:
        """Key and question of each pair that is not clear without asking."""
        asked = {pair: self.question(*pair) for pair in dict.fromkeys(pairs) if self.unasked(*pair) is None}
        return {pair: (answer_key(self.source.identity, question), question) for pair, question in asked.items()}

    def check(self) -> None:
        self.source.check(self.question("Name a colour.", "Blue is a colour that many people like very much."))
