"""What each stage of a run will take, by its model's configuration and the lengths of its prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from refusal_lightning.config import EvaluateConfig, SelectConfig
from refusal_lightning.directions.selection.filters import Thresholds
from refusal_lightning.inference.batch_size import rows_in
from refusal_lightning.inference.continuous_batching import PROMPT_TOKENS
from refusal_lightning.inference.host_memory import KEPT_SHARE
from refusal_lightning.inputs.loss_texts import loss_batches
from refusal_lightning.models.tokens import length_batches
from refusal_lightning.modules.generation import APART, can_refill
from refusal_lightning.planning.arithmetic import Arithmetic
from refusal_lightning.planning.hardware import Hardware
from refusal_lightning.planning.lengths import Lengths
from refusal_lightning.planning.memory import ITEM_BYTES, answer_bytes, head_copies, loss_bytes, pass_bytes
from refusal_lightning.planning.placement import ROOM

Batches = list[tuple[int, int]]
"""Rows, and tokens of each with its padding."""


@dataclass(frozen=True)
class StageEstimate:
    """What a stage takes at most, over all devices."""

    prompts: int
    tokens: int
    """Tokens that pass through the model, padding included, and new ones."""
    flops: float
    reads: float
    """Bytes of weights that decoding reads, one device after the other."""
    kept: float
    """Bytes beside the weights that a copy of the model keeps, over its devices."""
    work: float
    """Bytes beside these on each device, at the widest point of a pass."""


@dataclass(frozen=True)
class PlacedModel:
    """The model of a plan, and where it runs."""

    arithmetic: Arithmetic
    config: Any
    """As Hugging Face has it."""
    dtype: str
    weights: int
    """Bytes."""
    n_positions: int
    """End-of-instruction tokens."""
    hardware: Hardware
    spread: bool
    """Whether it is to be spread over the devices, wherever it fits."""


def _batches(lengths: list[int], batch_size: int) -> Batches:
    return [(len(index), max(lengths[i] for i in index)) for index in length_batches(lengths, batch_size)]


def _widest(placed: PlacedModel, batches: Batches) -> float:
    on_cpu = placed.hardware.on_cpu
    return max(
        pass_bytes(placed.config, rows, tokens, placed.dtype)
        + (head_copies(placed.arithmetic.size, rows, placed.dtype) if on_cpu else 0)
        for rows, tokens in batches
    )


def _tokens(batches: Batches) -> int:
    return sum(rows * tokens for rows, tokens in batches)


def cache_estimate(placed: PlacedModel, lengths: list[int], shard_prompts: int, batch_size: int) -> StageEstimate:
    """Batches do not cross shards, as `cache` has it."""
    shards = [lengths[start : start + shard_prompts] for start in range(0, len(lengths), shard_prompts)]
    batches = [batch for shard in shards for batch in _batches(shard, batch_size)]
    flops = placed.arithmetic.prompts(batches)
    return StageEstimate(len(lengths), _tokens(batches), flops, 0.0, 0.0, _widest(placed, batches))


def select_estimate(placed: PlacedModel, lengths: Lengths, select: SelectConfig) -> StageEstimate:
    """All three scores of every candidate (but the pruned, unless all are asked for; of one that is chosen by hand,
    its own), each prompt whole, for each estimator.

    Induce scores begin at the candidate's layer, with what the baseline has there: it is kept at every layer, as far
    as there is room.
    """
    n_layers, d_model = placed.arithmetic.n_layers, placed.config.get_text_config().hidden_size
    layers = _scored_layers(n_layers, select)
    positions = 1 if select.layer is not None and select.mode == "staged" else placed.n_positions
    candidates = positions * len(layers) * len(select.estimators)
    harmful, harmless = (_batches(n, select.batch_size) for n in (lengths.harmful_val, lengths.harmless_val))
    above = sum(1 - layer / n_layers for layer in layers) / max(1, len(layers))
    baseline = float(_tokens(harmless) * n_layers * d_model * ITEM_BYTES[placed.dtype])
    passes = placed.arithmetic.prompts(harmful) + (1 + above) * placed.arithmetic.prompts(harmless)
    return StageEstimate(
        prompts=len(lengths.harmful_val) + len(lengths.harmless_val),
        tokens=round(candidates * (_tokens(harmful) + (1 + above) * _tokens(harmless))),
        flops=candidates * passes,
        reads=0.0,
        kept=min(baseline, KEPT_SHARE * max(0.0, placed.hardware.memory - placed.weights)),
        work=_widest(placed, [(select.batch_size, max(tokens for _, tokens in harmful + harmless))]),
    )


def _scored_layers(n_layers: int, select: SelectConfig) -> range:
    if select.mode == "exhaustive":
        return range(n_layers)
    if select.layer is not None:  # by hand, in a pruned layer too
        return range(select.layer, select.layer + 1)
    return range(Thresholds(prune_layers=select.prune_layers).first_pruned_layer(n_layers))


def evaluate_estimate(placed: PlacedModel, lengths: Lengths, evaluate: EvaluateConfig) -> StageEstimate:
    """Answers as long as they may be, under every intervention, then the losses; memory is what the wider takes."""
    n_interventions = len(evaluate.interventions)
    answers = _answers(placed, lengths.answered, evaluate)
    passes = _all_loss_passes(lengths, evaluate)
    loss = _loss_work(placed, passes)
    wider = loss > answers.kept + answers.work
    return replace(
        answers,
        tokens=answers.tokens + n_interventions * sum(rows * tokens for rows, tokens, _ in passes),
        flops=answers.flops
        + n_interventions * sum(placed.arithmetic.prompts([(rows, n)], logits=kept) for rows, n, kept in passes),
        kept=0.0 if wider else answers.kept,
        work=loss if wider else answers.work,
    )


def _answers(placed: PlacedModel, lengths: list[int], evaluate: EvaluateConfig) -> StageEstimate:
    if not lengths:
        return StageEstimate(0, 0, 0.0, 0.0, 0.0, 0.0)
    n_interventions, new, longest = len(evaluate.interventions), evaluate.max_new_tokens, max(lengths)
    device, on_cpu = placed.hardware.memory, placed.hardware.on_cpu
    # As GenerationModule decodes: all interventions' rows together, or, on several devices, one's after another's.
    apart = placed.spread or placed.weights > ROOM * device or not can_refill(placed.config)
    if apart:
        most, parts = APART, n_interventions
    else:
        kind, text = "cpu" if on_cpu else "cuda", placed.config.get_text_config()
        most = rows_in(device, kind, placed.weights, text, longest + new, ITEM_BYTES[placed.dtype])
        parts = 1
    rows = len(lengths) * n_interventions
    at_once = min(rows // parts, evaluate.batch_size or most)
    together = at_once if apart else min(at_once, max(1, PROMPT_TOKENS // longest))
    prompts = _batches(lengths, together)
    mean = sum(lengths) / len(lengths)
    return StageEstimate(
        prompts=len(lengths),
        tokens=n_interventions * _tokens(prompts) + rows * new,
        flops=n_interventions * placed.arithmetic.prompts(prompts) + placed.arithmetic.decoding(rows, mean, new),
        reads=placed.weights * new * parts * -(-(rows // parts) // at_once),
        kept=answer_bytes(placed.config, at_once, longest + new, placed.dtype),
        work=_widest(placed, [(together, longest)]),
    )


class _LossPass(NamedTuple):
    rows: int
    tokens: int
    logits: int
    """Positions of each row whose logits are made: from the first one that predicts a scored token."""


def _all_loss_passes(lengths: Lengths, evaluate: EvaluateConfig) -> list[_LossPass]:
    passes: list[_LossPass] = []
    if lengths.losses.of_the_baseline:
        own = [(n + evaluate.max_new_tokens, n) for n in lengths.answered_harmless]
        passes += _loss_passes(own, evaluate.loss_batch_size)
    for spans in lengths.losses.sets:
        passes += _loss_passes(spans, evaluate.loss_batch_size)
    # What is elsewhere is taken to have as many texts, and as long ones, as the configuration lets in.
    longest = _LossPass(evaluate.loss_batch_size, evaluate.loss_max_tokens, evaluate.loss_max_tokens)
    return passes + [longest] * evaluate.loss_n_batches * lengths.losses.elsewhere


def _loss_passes(spans: list[tuple[int, int]], batch_size: int) -> list[_LossPass]:
    """Of texts by their length and the first token whose prediction counts."""
    batches = [[spans[i] for i in index] for index in loss_batches(spans, batch_size)]
    return [
        _LossPass(len(batch), max(n for n, _ in batch), max(n - first for n, first in batch) + 1) for batch in batches
    ]


def _loss_work(placed: PlacedModel, passes: list[_LossPass]) -> float:
    return max(
        (
            pass_bytes(placed.config, rows, tokens, placed.dtype)
            + loss_bytes(placed.config, rows, logits, placed.dtype)
            for rows, tokens, logits in set(passes)
        ),
        default=0.0,
    )
