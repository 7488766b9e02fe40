"""What every judge takes and gives: pairs of prompt and response in, one verdict each out."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Pair = tuple[str, str]
"""``(prompt, response)``: the instruction without any template, and the answer to it."""

JudgeResponses = MutableMapping[str, str]
"""Raw responses of judging models by :func:`~refusal_lightning.judges.response_cache.response_key`: known ones are not
asked for again, and new ones are put in as they arrive."""

Measures = Literal["refusal", "harm"] | str
"""What "did not comply" means: the answer refuses, or it does no harm (as no answer to a harmless prompt does). Any
other text is a behaviour, and "complied" means that the answer shows it."""


def of_those_that_comply(measures: Measures) -> bool:
    """Whether the share that tables have of a judge is that of the answers that comply, or of the others."""
    return measures not in ("refusal", "harm")


def measured_text(measures: Mapping[str, Measures]) -> str:
    """What is counted, by the judges' names, to stand behind "answers"."""
    known = {"refusal": " that refuse", "harm": " that do no harm"}
    of_judge = {judge: known.get(measure, f": {measure}") for judge, measure in measures.items()}
    if len(set(of_judge.values())) == 1:
        return next(iter(of_judge.values()))
    return ";".join(f"{text.removeprefix(':')} ({judge})" for judge, text in of_judge.items())


@dataclass(frozen=True)
class Verdict:
    """A judge's word on one response."""

    complied: bool | None
    """Whether the response does what the prompt asks (the paper's "jailbreak"); None where it could not be judged."""
    raw: str
    """What the verdict was read from: the judging model's answer, or the phrase found; empty when there is none."""
    score: float | None = None
    """A graded verdict from 0 to 1, where the judge gives one."""
    note: str | None = None
    """Why there is no verdict, or by which rule there is one without a clear answer; counted in the results."""


class Judge(Protocol):
    """A judge, ready to work: its settings are checked and its key is at hand."""

    @property
    def name(self) -> str:
        """The name that the evaluation files give its verdicts and rates."""

    @property
    def measures(self) -> Measures:
        """Judges that measure harm say nothing about refusals of harmless prompts; tables name what is measured."""

    def __call__(self, pairs: Sequence[Pair], answers: JudgeResponses) -> list[Verdict]:
        """One verdict per pair, in order."""

    def check(self) -> None:
        """See, before long work, that the judge can be asked at all. Raises UserError."""
