"""Every architecture as a user's own model: under interventions it gives what independent hooks and the bridge give."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from architectures import N_LAYERS, TINY
from plain import Plain
from specimens import plain_model, save_specimen
from table import read
from torch import Tensor

from refusal_lightning.errors import UserError
from refusal_lightning.interventions import ablation, addition, intervene
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.engines.adopt import engine_of
from refusal_lightning.models.engines.layout import POINTS
from refusal_lightning.models.engines.protocol import Engine

BOUND = 1e-4
NEW_TOKENS = 4
PROMPT = [7, 21, 300, 45, 12, 99, 150, 8, 33, 61, 240, 17, 5, 90]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY))
def test_a_plain_model_under_interventions(name, tmp_path):
    save_specimen(name, tmp_path)
    model = plain_model(name, tmp_path)
    if read()[name].startswith("refused"):
        with pytest.raises(UserError, match=name):
            engine_of(model)
        return
    engine = engine_of(model)
    oracle = Plain(plain_model(name, tmp_path), N_LAYERS)
    vector = torch.randn(
        model.config.get_text_config().hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    bridge = load_chat_model(str(tmp_path)).engine("cpu")
    points = {f"blocks.{layer}.hook_{point}" for layer in range(N_LAYERS) for point in POINTS}
    assert set(engine.hook_names) == points & set(bridge.hook_names)
    seen, bridged = _activations(engine, engine), _activations(bridge, engine)
    assert {what for what in bridged if _distance(seen[what], bridged[what]) > BOUND} == set()
    ways: dict[str, tuple[Callable[[], AbstractContextManager[None]], Any]] = {
        "ablation": (partial(oracle.ablated, vector), ablation(vector)),
        "addition": (partial(oracle.added, vector, 1), addition(vector, 1, 1.0)),
    }
    plainly = oracle.logits(PROMPT)
    for way, (theirs, intervention) in ways.items():
        with theirs():
            expected = oracle.logits(PROMPT)
        assert _distance(expected, plainly) > 1e-2, way
        with torch.inference_mode(), intervene(engine, intervention):
            found = model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0]
            answer = model.generate(torch.tensor([PROMPT]), max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
        assert _distance(found, expected) <= BOUND, way
        with torch.inference_mode(), intervene(bridge, intervention):
            assert _distance(found, bridge(torch.tensor([PROMPT]))[0]) <= BOUND, way
        with theirs():
            logits = oracle.logits(answer)[len(PROMPT) - 1 : -1]
        for row, token in zip(logits, answer[len(PROMPT) :], strict=True):
            assert float(row.max() - row[token]) <= BOUND * float(row.std()), way
    assert torch.equal(model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0].double(), plainly)


@torch.inference_mode()
def _activations(engine: Engine, named: Engine) -> dict[str, Tensor]:
    """At the hook points that ``named`` has, of two rows, one of them padded."""
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        return lambda x, hook: found.update({name: x[mask.bool()].clone()})

    with engine.hooks(fwd_hooks=[(name, keep(name)) for name in named.hook_names]):
        engine(ids, attention_mask=mask)
    return found


def _distance(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = (x.double().nan_to_num(neginf=0.0) for x in (ours, theirs))
    return float((ours - theirs).norm(dim=-1).div(theirs.norm(dim=-1)).max())
