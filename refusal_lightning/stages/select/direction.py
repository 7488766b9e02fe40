"""Select a direction: estimate the candidates, score those that may win, choose, and see how sure the choice is."""

from __future__ import annotations

import logging

import numpy as np

from refusal_lightning.config import SelectConfig
from refusal_lightning.directions.selection.choose import Selection
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.directions.selection.search import Rules, best_places, reasons, search
from refusal_lightning.directions.selection.uncertainty import uncertainty
from refusal_lightning.distributed.process_group import require_same_on_all_ranks
from refusal_lightning.inputs.candidates import estimated_directions
from refusal_lightning.inputs.stored_logits import StoredLogits
from refusal_lightning.io.versions import other_versions
from refusal_lightning.stages.select.cross_checks import answer_kl_opinion, cosmic_opinion
from refusal_lightning.stages.select.inputs import SelectionInputs
from refusal_lightning.stages.select.result import SelectionResult
from refusal_lightning.stages.select.runner import Runner
from refusal_lightning.stages.select.scoring import Candidates, KeptScores, ModelScorer, score_bounds

log = logging.getLogger(__name__)


def select_direction(
    inputs: SelectionInputs, estimator: str, settings: SelectConfig, runner: Runner
) -> SelectionResult:
    """Directions of one estimator, their scores and the choice among them (paper, section 2.3-2.4).

    Scores that the runner has kept are not computed again; the model is loaded if one is lacking. Every process of a
    run gets the same result. Raises UserError where a person has chosen a direction that is zero.
    """
    harmful, harmless = (inputs.kept[f"{kind}_val"].prompts for kind in ("harmful", "harmless"))
    directions = estimated_directions(estimator, inputs.store, inputs.kept, inputs.chat.n_positions, inputs.data)
    candidates = Candidates(inputs.chat, directions, harmful, harmless, settings.batch_size)
    logits = StoredLogits(inputs.store, harmless.hashes)
    kept = KeptScores(candidates, score_bounds(len(harmful), logits), runner)
    table, norms, rules = kept.table, candidates.norms, rules_of(settings)
    require_same_on_all_ranks({"scores at hand": {kind: int(seen.sum()) for kind, seen in table.seen.items()}})
    if others := other_versions(kept.made_with):
        log.warning(f"scores in {inputs.store.url} were made with {others}; another store.root has all computed anew")
    scorer = ModelScorer(candidates, logits, kept, runner)
    choice = search(table, norms, rules, scorer)
    kept.drain()
    if not scorer.n_computed:
        log.info("select: nothing to compute, all scores are there")
    answer_kl, certainty, cosmic = {}, None, None
    if isinstance(choice, Selection) and settings.answer_kl_tokens:
        places = best_places(choice)
        answer_kl = answer_kl_opinion(candidates, kept.key, places, settings.answer_kl_tokens, runner)
    if isinstance(choice, Selection) and not choice.by_hand:
        draws, nan = np.random.default_rng(inputs.data.seed), table.computed_nan()
        certainty = uncertainty(table.prompt_scores(), rules.thresholds, norms, draws, hopeless=nan)
        cosmic = cosmic_opinion(inputs.store, harmful, harmless, directions, choice)
    return SelectionResult(
        inputs=inputs,
        settings=settings,
        rules=rules,
        estimator=estimator,
        key=kept.key,
        directions=directions,
        norms=norms,
        table=table,
        choice=choice,
        reasons={} if table.complete else reasons(table, rules.thresholds, norms),
        answer_kl=answer_kl,
        uncertainty=certainty,
        cosmic=cosmic,
        hooks_proved=None if runner.proof is None else runner.proof.figures(),
    )


def rules_of(settings: SelectConfig) -> Rules:
    """How the settings want a candidate chosen."""
    thresholds = Thresholds(settings.kl_threshold, settings.induce_threshold, settings.prune_layers)
    by_hand = None if settings.position is None or settings.layer is None else (settings.position, settings.layer)
    return Rules(thresholds, settings.mode, by_hand)
