"""Parameters and operations by configuration alone, against real models."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from refusal_lightning.planning.arithmetic import Arithmetic
from refusal_lightning.planning.model_size import expert_share, model_size
from refusal_lightning.planning.placement import place


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_of_the_real_model(architecture):
    model, _ = tiny_model(architecture, 0)
    size = model_size(model.config)
    assert size.total == sum(parameter.numel() for parameter in model.parameters())
    assert size.tied == (model.get_input_embeddings().weight is model.get_output_embeddings().weight)
    apart = size.total - size.embedding - (0 if size.tied else size.head)
    assert size.per_token == apart or expert_share(model.config) < 1
    if expert_share(model.config) < 1:
        experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
        assert size.per_token == round(apart - experts * (1 - expert_share(model.config))) < apart


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_operations_of_a_real_pass(architecture):
    model, _ = tiny_model(architecture, 0)
    rows, tokens, new = 3, 40, 5
    ids = torch.randint(0, 300, (rows, tokens))
    arithmetic = Arithmetic.of(model.config, model_size(model.config))
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        made = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    expected = counted.get_total_flops()
    assert arithmetic.prompts([(rows, tokens)]) == pytest.approx(expected, rel=0.05)
    cache = made.past_key_values
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        for _ in range(new):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    assert arithmetic.decoding(rows, tokens, new) == pytest.approx(counted.get_total_flops(), rel=0.05)


def test_placement():
    gb = 1e9
    assert place(14 * gb, 4 * gb, 80 * gb, 8, 4) == ("ddp", 32, 18 * gb)
    assert place(140 * gb, 4 * gb, 80 * gb, 8, 4) == ("device_map", 4, 21.5 * gb)
    assert place(140 * gb, 4 * gb, 80 * gb, 1, 4).strategy is None
    assert place(70 * gb, 4 * gb, 80 * gb, 1, 1).strategy is None  # a tenth of the memory stays free
