"""Results as tables and labelled arrays, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.selection.candidates import SCORES, Place
from refusal_lightning.directions.selection.filters import Thresholds, dropped_by
from refusal_lightning.io.notebook import frame, import_for
from refusal_lightning.report.figures.scores import ScoredCandidates
from refusal_lightning.report.summary import Difference, Loss, Rate

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

_SAID = {
    "bypass": ("mean refusal score on harmful prompts when the candidate is ablated", "log-odds"),
    "induce": ("mean refusal score on harmless prompts when the candidate is added at its layer", "log-odds"),
    "kl": ("mean KL(baseline, ablated) of the next token on harmless prompts", "nats"),
}


def scores_dataset(of: ScoredCandidates, thresholds: Thresholds) -> Dataset:
    """The scores by name, ``[position, layer]``, NaN where not computed; thresholds and baselines as attributes.

    A threshold that is switched off is no attribute. Raises UserError without xarray.
    """
    xarray = import_for("an array of scores", "xarray")
    n_positions, n_layers = of.scores.shape
    attributes = {
        "kl_threshold": thresholds.kl,
        "induce_threshold": thresholds.induce,
        "prune_layers": thresholds.prune_layers,
        "baseline_harmful": of.baseline["harmful"],
        "baseline_harmless": of.baseline["harmless"],
    }
    if of.chosen is not None:
        attributes |= {"selected_position": of.chosen[0], "selected_layer": of.chosen[1]}
    return xarray.Dataset(
        {
            kind: (("position", "layer"), of.scores[kind], {"long_name": _SAID[kind][0], "units": _SAID[kind][1]})
            for kind in SCORES
        },
        coords={
            "position": np.arange(-n_positions, 0),
            "layer": np.arange(n_layers),
            "token": ("position", list(of.position_tokens)),
        },
        attrs={name: value for name, value in attributes.items() if value is not None},
    )


def candidates_frame(
    of: ScoredCandidates,
    thresholds: Thresholds,
    norms: Float[np.ndarray, "position layer"],
    ruled_out: Mapping[Place, str] | None,
) -> DataFrame:
    """A row for each candidate: place, token, scores, norm, whether it passes the filter, and the rule that drops it.

    ``ruled_out`` as of ``choose.select``. Raises UserError without pandas.
    """
    reasons = dropped_by(of.scores, thresholds, norms, ruled_out or None)
    rows = [
        {
            "position": candidate.position,
            "layer": candidate.layer,
            "token": of.position_tokens[candidate.position],
            **{kind: getattr(candidate, kind) for kind in SCORES},
            "norm": float(norms[candidate.place]),
            "passes": candidate.place not in reasons,
            "reason": reasons.get(candidate.place, ""),
            "selected": candidate.place == of.chosen,
        }
        for candidate in of.scores
    ]
    columns = ["position", "layer", "token", *SCORES, "norm", "passes", "reason", "selected"]
    return frame(rows, columns)


def rates_frame(rates: Sequence[Rate]) -> DataFrame:
    """A row for each set, intervention and judge: how many answers show what it measures, the share, its 95 % interval.

    ``low`` and ``high`` are Wilson's interval of ``share``, as fractions. Raises UserError without pandas.
    """
    rows = []
    for rate in rates:
        low, high = rate.interval or (None, None)
        row = {key: value for key, value in asdict(rate).items() if key != "interval"}
        rows.append({**row, "share": rate.share, "low": low, "high": high})
    columns = ["dataset", "role", "intervention", "judge", "count", "total", "share", "low", "high"]
    return frame(rows, columns)


def differences_frame(differences: Sequence[Difference]) -> DataFrame:
    """A row for each set, intervention and judge: how much that share changes against the baseline.

    ``low`` and ``high`` are Newcombe's 95 % interval of the paired difference, ``p_value`` McNemar's exact test.
    Raises UserError without pandas.
    """
    rows = []
    for difference in differences:
        row = {key: value for key, value in asdict(difference).items() if key != "interval"}
        rows.append({**row, "low": difference.interval[0], "high": difference.interval[1]})
    return frame(rows, ["dataset", "intervention", "judge", "change", "low", "high", "p_value"])


def losses_frame(losses: Sequence[Loss]) -> DataFrame:
    """A row for each intervention and set of texts: cross-entropy in nats per token, perplexity, number of tokens.

    Raises UserError without pandas.
    """
    return frame([asdict(loss) for loss in losses], ["intervention", "dataset", "ce_loss", "perplexity", "n_tokens"])


def completions_frame(evaluation: Mapping[str, Any]) -> DataFrame:
    """A row for each prompt: its category, the prompt, the response, and each judge's ``is_jailbreak_NAME``.

    ``evaluation`` is what ``judges.rates.evaluate_completions`` gives. Raises UserError without pandas.
    """
    rows = evaluation["completions"]
    return frame(rows, list(dict.fromkeys(key for row in rows for key in row)))
