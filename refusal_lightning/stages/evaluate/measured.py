"""What an evaluation tells loggers: rates with their intervals, losses, and how long answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refusal_lightning.loggers.measured import Measured
from refusal_lightning.report.summary import Summary
from refusal_lightning.stages.evaluate.completions import Completion
from refusal_lightning.stages.evaluate.evaluation import Place


def measured(summary: Summary, answers: Mapping[Place, Sequence[Completion]]) -> Measured:
    """A rate (``report.summary.Rate``) for each set, intervention and judge; a loss for each set of texts."""
    scalars: dict[str, float | None] = {}
    for rate in summary.rates:
        name = f"{rate.dataset}/{rate.intervention}/{rate.judge}"
        low, high = rate.interval or (None, None)
        scalars |= {f"rate/{name}": rate.share, f"rate_low/{name}": low}
        scalars[f"rate_high/{name}"] = high
    for loss in summary.losses:
        name = f"{loss.dataset}/{loss.intervention}"
        scalars |= {f"ce_loss/{name}": loss.ce_loss, f"perplexity/{name}": loss.perplexity}
    for (dataset, intervention), made in answers.items():
        tokens = sum(one.n_tokens for one in made)
        scalars[f"answer_tokens/{dataset}/{intervention}"] = tokens / len(made) if made else None
    return Measured(scalars)
