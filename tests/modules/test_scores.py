"""Scores with shared passes equal those of one plain pass per candidate and prompt, on every architecture."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from on_cpu import SYSTEM, random_directions, scored
from tiny_models import ARCHITECTURES

from refusal_lightning.config import TrainerConfig
from refusal_lightning.directions.metrics.kl import kl_scores
from refusal_lightning.directions.metrics.refusal_score import refusal_scores
from refusal_lightning.directions.selection.schedule import ScoreTask
from refusal_lightning.distributed.predict import PredictLoop, run_loop
from refusal_lightning.inference import prefix_cache
from refusal_lightning.interventions import (
    ablation,
    addition,
    intervene,
    record_activations,
    row_ablation,
    row_addition,
)
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules import scores
from refusal_lightning.modules.scores import ScoreModule, ScoreResult

INSTRUCTIONS = (
    "Name three birds",
    "Say hello.",
    "How do I keep the plants in my garden alive when I travel for two weeks?",
    "Name three cities",
    "What is the capital of France, and why?",
)
PLACES = ((-2, 1), (-1, 1), (-3, 1))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def chat(request, tiny_folder) -> ChatModel:
    return load_chat_model(str(tiny_folder(request.param)), refusal_tokens=["I"], alias=request.param)


@pytest.fixture(scope="module")
def prompts(chat) -> list[list[int]]:
    return [chat.encode(f"{SYSTEM} {instruction}") for instruction in INSTRUCTIONS]


class _Collect(BasePredictionWriter):
    def __init__(self) -> None:
        super().__init__("batch")
        self.results: list[ScoreResult] = []

    def write_on_batch_end(self, trainer: L.Trainer, pl_module: Any, prediction: Any, *args: Any) -> None:
        self.results.append(prediction)


def _run(chat: ChatModel, prompts, task: ScoreTask, batch_size=4, baseline=None, proven_out=None) -> ScoreResult:
    module = ScoreModule(chat, random_directions(chat), scored(prompts, baseline), task.kind, batch_size, proven_out)
    collect = _Collect()
    run_loop(TrainerConfig(accelerator="cpu", progress_bar=False), PredictLoop(module, lambda: [task]), [collect])
    return collect.results[0]


def _logits(chat: ChatModel, prompt: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt])
    return chat.engine("cpu").model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1].float()


def _plain(chat: ChatModel, prompts, kind: str, place: tuple[int, int]) -> np.ndarray:
    """One pass per prompt, unpadded, from the first block, with the interventions of one direction."""
    vector = random_directions(chat)[place]
    intervention = addition(vector, place[1], 1.0) if kind == "induce" else ablation(vector)
    scores = []
    with torch.inference_mode():
        for prompt in prompts:
            before = _logits(chat, prompt)
            with intervene(chat.engine("cpu"), intervention):
                after = _logits(chat, prompt)
            score = kl_scores(before, after) if kind == "kl" else refusal_scores(after, chat.refusal_ids)
            scores.append(float(score))
    return np.array(scores)


@pytest.mark.parametrize("kind", ["bypass", "induce", "kl"])
@pytest.mark.parametrize("batch_size", [4, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 64))])
def test_shared_passes_equal_plain_ones(chat, prompts, kind, batch_size):
    with torch.inference_mode():
        baseline = torch.cat([_logits(chat, prompt) for prompt in prompts]) if kind == "kl" else None
    result = _run(chat, prompts, ScoreTask(kind, PLACES), batch_size, baseline)
    assert result.seen.all()
    for place, row in zip(PLACES, result.scores, strict=True):
        np.testing.assert_allclose(row, _plain(chat, prompts, kind, place), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("room", [0, 20_000])
def test_induce_scores_without_room_for_the_baseline(chat, prompts, monkeypatch, room):
    """What is computed again is what would have been kept, to the bit; of it, no more than one layer is kept."""
    layer = PLACES[0][1]
    task = ScoreTask("induce", tuple((position, layer) for position in (-1, -2, -3)))
    with_room = _run(chat, prompts, task)
    monkeypatch.setattr(scores, "room_to_keep", lambda device, processes: room)
    kept: list[int] = []
    parts = ScoreModule._parts

    def noted(self: ScoreModule, *args: Any) -> Any:
        kept.append(sum(x.nbytes for bucket in self._resid_pre for x in bucket.values()))
        return parts(self, *args)

    monkeypatch.setattr(ScoreModule, "_parts", noted)
    np.testing.assert_array_equal(_run(chat, prompts, task).scores, with_room.scores)
    assert max(kept) <= room and (max(kept) > 0) == (room > 0)


@pytest.mark.parametrize("layer", [0, 3])
def test_induce_scores_from_the_first_and_the_last_layer(chat, prompts, layer):
    places = ((-1, layer), (-2, layer))
    result = _run(chat, prompts, ScoreTask("induce", places))
    for place, row in zip(places, result.scores, strict=True):
        np.testing.assert_allclose(row, _plain(chat, prompts, "induce", place), atol=2e-5, rtol=1e-4)


def test_the_beginning_is_shared(chat, prompts, monkeypatch):
    """It is run once per candidate, and what follows is all that is run per prompt; also beyond a sliding window."""
    tokens: list[int] = []
    model = chat.engine("cpu").model
    counting = model.get_input_embeddings().register_forward_pre_hook(lambda m, args: tokens.append(args[0].numel()))
    try:
        _run(chat, prompts, ScoreTask("bypass", PLACES))
        shared, with_sharing = prefix_cache._shared_length([p[:-1] for p in prompts]), sum(tokens)
        tokens.clear()
        monkeypatch.setattr(prefix_cache, "WORTH_SHARING", 1000)
        _run(chat, prompts, ScoreTask("bypass", PLACES))
        without = sum(tokens)
    finally:
        counting.remove()
    assert shared > 10 and without >= 3 * sum(len(p) for p in prompts)
    check = 4 * max(map(len, prompts))  # whether sharing is exact is tried once, with two prompts
    assert with_sharing <= check + 3 * (shared + 1.15 * sum(len(p) - shared for p in prompts))


def test_without_a_shared_beginning(chat):
    different = [list(range(5, 5 + n)) for n in (9, 7)] + [list(range(20, 29))]
    for kind in ("bypass", "induce"):
        result = _run(chat, different, ScoreTask(kind, PLACES))
        for place, row in zip(PLACES, result.scores, strict=True):
            np.testing.assert_allclose(row, _plain(chat, different, kind, place), atol=2e-5, rtol=1e-4)


def test_a_candidate_that_is_proven_out_is_dropped(chat, prompts):
    """Its remaining prompts are not run, the others' scores are what they were."""
    whole = _run(chat, prompts, ScoreTask("bypass", PLACES), batch_size=2)
    means = whole.scores.mean(axis=1)
    worst = int(means.argmax())
    bar = np.delete(means, worst).max()

    def out(low: float, high: float) -> bool:
        return low > bar - 15  # with bounds of 20 around what is unseen, soon true of the worst

    result = _run(chat, prompts, ScoreTask("bypass", PLACES), batch_size=2, proven_out=out)
    assert not result.seen.all() and result.seen.any(axis=1).all()
    np.testing.assert_allclose(result.scores[result.seen], whole.scores[result.seen], atol=2e-5, rtol=1e-4)
    assert np.isnan(result.scores[~result.seen]).all()


def test_rows_equal_one_by_one(chat, prompts):
    """An intervention with a direction per row gives each row what that row's own intervention gives."""
    engine = chat.engine("cpu")
    ids, mask = left_pad(prompts)
    vectors = random_directions(chat)[-1, :1].expand(len(prompts), -1) * torch.arange(1, len(prompts) + 1).unsqueeze(1)
    vectors = vectors + random_directions(chat)[-2, 1]
    pairs = [
        (row_ablation(vectors), lambda v: ablation(v)),
        (row_addition(vectors, 2), lambda v: addition(v, 2, 1.0)),
    ]
    for rows, single in pairs:
        with torch.inference_mode():
            with intervene(engine, rows), record_activations(engine, ["resid_post"], [3], lambda x: x) as together:
                engine(ids, attention_mask=mask)
            for row, vector in enumerate(vectors):
                with (
                    intervene(engine, single(vector)),
                    record_activations(engine, ["resid_post"], [3], lambda x: x) as alone,
                ):
                    engine(ids, attention_mask=mask)
                real = mask[row].bool()
                torch.testing.assert_close(
                    together["resid_post", 3][row][real], alone["resid_post", 3][row][real], atol=2e-5, rtol=1e-4
                )
