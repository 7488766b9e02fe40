"""Judging models on this machine, for the judges that ask one: in one process for `judge`, in all for `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.journal import Journal, Record
from refusal_lightning.distributed.predict import PredictLoop, run_journaled
from refusal_lightning.inference.judge_model import load_judge, local_loader
from refusal_lightning.judges.config import JudgeConfig, JudgeSettings
from refusal_lightning.judges.judge_file import judge_completions
from refusal_lightning.judges.model_judge import ModelJudge, Question
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.sources.local import LocalSource
from refusal_lightning.judges.verdict import Judge, Pair

if TYPE_CHECKING:
    import torch


def judge(config: JudgeConfig) -> None:
    """The `judge` command: judging models of this machine run on its GPU, if it has one."""
    judge_completions(config, local_loader(config, TrainerConfig()))


def ask_in_all_processes(
    judges: Iterable[Judge],
    pairs: Sequence[Pair],
    answers: ResponseCache,
    settings: JudgeSettings,
    trainer: TrainerConfig,
    journals: Path,
    before: Callable[[], None],
) -> None:
    """Put what the judges on this machine say about (prompt, response) pairs into the answers, a part in each process.

    Every process must call this. ``before`` is called before a model is loaded, to make room.
    """

    def keep(records: list[Record]) -> None:
        for key, text in _said(records):
            if key not in answers:
                answers[key] = text

    for judge in judges:
        if not isinstance(judge, ModelJudge) or not isinstance(judge.source, LocalSource):
            continue
        journal = Journal(journals / f"judge-{judge.name}")
        lacking = judge.unanswered(pairs, {**answers, **dict(_said(journal))})
        if lacking:
            before()
            _ask(judge.source, lacking, settings, trainer, journal)
        journal.drain(keep)


def _said(records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    return ((record["key"], record["answer"]) for record in records)


def _ask(
    source: LocalSource, lacking: dict[str, Question], settings: JudgeSettings, trainer: TrainerConfig, journal: Journal
) -> None:
    from refusal_lightning.modules.judging import JudgingModule, Questions

    def load(device: torch.device) -> Callable[[Sequence[Question]], list[str]]:
        model = load_judge(source.model, settings, trainer, device)

        def answer(questions: Sequence[Question]) -> list[str]:
            return model.generate([model.prompt(question) for question in questions], source.max_new_tokens)

        return answer

    def records(made: tuple[list[str], list[str]]) -> Iterator[dict[str, str]]:
        return ({"key": key, "answer": text} for key, text in zip(*made, strict=True))

    def batch(keys: list[str]) -> Questions:
        return Questions(keys, [lacking[key] for key in keys])

    keys = list(lacking)
    units = [keys[start : start + source.at_once] for start in range(0, len(keys), source.at_once)]
    loop = PredictLoop(
        JudgingModule(load), lambda: units, make=batch, name="judging", counts=lambda made: {"questions": len(made[0])}
    )
    run_journaled(trainer, loop, journal, records)
