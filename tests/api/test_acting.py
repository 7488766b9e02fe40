"""``rl.ablate``, ``rl.add``, ``rl.intervene`` on models that the user has loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from placement import spread
from tiny_models import D_MODEL, N_LAYERS, tiny_model
from transformers import AutoModelForCausalLM

from refusal_lightning.api.acting import ablate, add, intervene
from refusal_lightning.directions.direction import Direction
from refusal_lightning.errors import UserError
from refusal_lightning.interventions import Intervention, KeyedIntervention, ablation, addition
from refusal_lightning.interventions import intervene as hooks_of
from refusal_lightning.interventions.intervention import at_every_write
from refusal_lightning.interventions.registry import INTERVENTIONS, InterventionSpec
from refusal_lightning.models.engines.adopt import engine_of
from refusal_lightning.registry import Registry

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")[0]


def _vector(seed: int = 1) -> torch.Tensor:
    return torch.randn(D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _direction(**changes: Any) -> Direction:
    given = {"layer": 2, "position": -1, "n_layers": N_LAYERS, "model_name": "tiny", "identity": {}, **changes}
    return Direction(vector=given.pop("vector", _vector()), **given)


def _load(folder: Path, **settings: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


def _assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=3e-5, rtol=1e-5)


@torch.inference_mode()
def _logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(ids).logits


def _expected(model: Any, *interventions: Any) -> torch.Tensor:
    if not interventions:
        return _logits(model)
    with hooks_of(engine_of(model), interventions[0]):
        return _expected(model, *interventions[1:])


def test_ablate_takes_a_direction_as_any_kind_of_vector(model):
    expected = _expected(model, ablation(_vector()))
    assert (expected - _logits(model)).abs().max() > 1e-2
    length_does_not_matter = 7 * _vector()
    for direction in (_vector(), _vector().numpy(), _vector().tolist(), length_does_not_matter, _direction()):
        with ablate(model, direction):
            _assert_close(_logits(model), expected)
    with ablate(model, torch.nn.Parameter(_vector())):
        _assert_close(_logits(model), expected)


def test_add_uses_the_vector_as_it_is_at_its_layer(model):
    for how, layer, coefficient in (
        ({"coefficient": -1.0}, 2, -1.0),
        ({}, 2, 1.0),
        ({"layer": 0, "coefficient": 3}, 0, 3),
    ):
        expected = _expected(model, addition(_vector(), layer, coefficient))
        with add(model, _direction(), **how):
            assert torch.equal(_logits(model), expected)
    expected = _expected(model, addition(_vector(), 3, 1.0))
    with add(model, _vector().numpy(), layer=3):
        assert torch.equal(_logits(model), expected)


def test_a_registered_intervention_by_its_name(model, monkeypatch):
    for role, coefficient in (("harmful", -1.0), ("harmless", 1.0)):
        expected = _expected(model, addition(_vector(), 2, coefficient))
        with intervene(model, "actadd", _direction(), role=role):
            assert torch.equal(_logits(model), expected)
    with intervene(model, "baseline"):
        assert torch.equal(_logits(model), _logits(tiny_model("llama")[0]))

    def build(direction: torch.Tensor, layer: int, role: str) -> KeyedIntervention:
        return KeyedIntervention(at_every_write("flip", lambda x, hook: x.clamp(max=0.1), layer))

    own = {**INTERVENTIONS, "flip": InterventionSpec("flip", build)}
    for module in ("refusal_lightning.api.acting", "refusal_lightning.interventions.registry"):
        monkeypatch.setattr(f"{module}.INTERVENTIONS", Registry("intervention", own))
    with intervene(model, "flip", _vector(), layer=1):
        found = _logits(model)
    keyed = build(_vector(), 1, "harmful")
    assert torch.equal(found, _expected(model, keyed.intervention))
    for built in (keyed, keyed.intervention):
        with intervene(model, built):
            assert torch.equal(_logits(model), found)
    assert (found - _logits(model)).abs().max() > 1e-2


def test_nested_interventions_act_in_the_order_in_which_they_are_entered(model):
    """At one hook: the second gets what the first gives."""
    double = Intervention("double", lambda n_layers: [("blocks.1.hook_resid_pre", lambda x, hook: 2 * x)])
    seen: list[torch.Tensor] = []
    look = model.model.layers[1].input_layernorm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    try:
        _logits(model)
        with intervene(model, double), add(model, _vector(), layer=1):
            _logits(model)
        with add(model, _vector(), layer=1), intervene(model, double):
            _logits(model)
    finally:
        look.remove()
    before, doubled_first, added_first = seen
    v = _vector().float()
    torch.testing.assert_close(doubled_first, 2 * before + v)
    torch.testing.assert_close(added_first, 2 * (before + v))


def test_hooks_come_off_also_after_an_exception(model):
    before = _logits(model)
    with pytest.raises(RuntimeError, match="planted"), ablate(model, _vector()), add(model, _vector(), layer=1):
        raise RuntimeError("planted")
    with pytest.raises(UserError), ablate(model, _vector()), add(model, _vector(), layer=9):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(_logits(model), before)


def test_mistakes_are_told(model):
    wide, deep = _direction(vector=torch.ones(D_MODEL + 1)), _direction(n_layers=9)
    for act, words in (
        (lambda: ablate(model, torch.ones(D_MODEL + 1)), r"shape \(33,\); LlamaForCausalLM needs a vector of width 32"),
        (lambda: ablate(model, torch.ones(2, D_MODEL)), r"shape \(2, 32\)"),
        (lambda: ablate(model, torch.zeros(D_MODEL)), "the direction is zero"),
        (lambda: ablate(model, torch.full((D_MODEL,), torch.nan)), "no finite numbers"),
        (lambda: ablate(model, "refusal"), "a str is no direction"),
        (lambda: ablate(model, wide), "width 33; LlamaForCausalLM has 32"),
        (lambda: ablate(model, deep), "LlamaForCausalLM has 4"),
        (lambda: ablate("llama", _vector()), "a str is none"),
        (lambda: add(model, _vector()), "give layer, a number from 0"),
        (lambda: add(model, _vector(), layer=4), "layer is 4; LlamaForCausalLM has the layers 0 to 3"),
        (lambda: add(model, _vector(), layer=-1), "layer is -1"),
        (lambda: add(model, _direction(), coefficient=float("inf")), "coefficient is inf"),
        (lambda: intervene(model, "sing", _direction()), "there is no intervention 'sing'; there are baseline"),
        (lambda: intervene(model, "ablation"), "the intervention ablation needs a direction"),
        (lambda: intervene(model, "actadd", _direction(), role="both"), "role is 'both'"),
        (lambda: intervene(model, ablation(_vector()), layer=1), "one that was built has its own"),
        (lambda: intervene(model, None), "a NoneType is no intervention"),  # type: ignore[arg-type]
        (
            lambda: intervene(model, Intervention("odd", lambda n: [("blocks.0.hook_z", lambda x, hook: x)])),
            "odd needs the hook blocks.0.hook_z",
        ),
    ):
        with pytest.raises(UserError, match=words), act():
            pass


@pytest.mark.parametrize("arch", ["llama", "gemma2", "falcon_h1"])
def test_half_precision(arch):
    """The stream has nothing left along the direction, to the dtype's rounding; answers come."""
    model: Any = tiny_model(arch)[0]
    model.to(torch.bfloat16)
    unit = (_vector() / _vector().norm()).float()
    streams: list[torch.Tensor] = []
    with ablate(model, _vector()), engine_of(model).hooks(_look_at_streams(streams)):
        assert _logits(model).dtype == torch.bfloat16
        model.generate(IDS, max_new_tokens=3, do_sample=False)
    assert max(float((x.float() @ unit).abs().max() / x.float().norm(dim=-1).max()) for x in streams) < 0.02


def _look_at_streams(seen: list[torch.Tensor]) -> list[Any]:
    def keep(x: torch.Tensor, hook: Any) -> None:
        seen.append(x)

    return [(f"blocks.{layer}.hook_resid_post", keep) for layer in range(N_LAYERS)]


def test_compiled_models_act_uncompiled_within(model):
    """Compiled code keeps the hooks of its first pass; it must neither miss ours nor keep them."""
    compiled = torch.compile(model, backend="eager")
    plainly = _logits(compiled)
    expected = _expected(model, ablation(_vector()))
    for taken in (compiled, model):
        with ablate(taken, _vector()):
            _assert_close(_logits(compiled), expected)
    _assert_close(_logits(compiled), plainly)
    in_place = tiny_model("llama")[0]
    in_place.compile(backend="eager")
    with ablate(in_place, _vector()):
        first = _logits(in_place)
    _assert_close(first, expected)
    _assert_close(_logits(in_place), plainly)


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_a_model_spread_by_device_map(arch, tiny_folder, tmp_path):
    folder = tiny_folder(arch)
    whole = _load(folder, dtype=torch.float32)
    parts = _load(folder, dtype=torch.float32, device_map=spread(arch), offload_folder=str(tmp_path))
    with ablate(parts, _vector()), add(parts, _vector(2), layer=1):
        found, answer = _logits(parts), parts.generate(IDS, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, _expected(whole, ablation(_vector()), addition(_vector(2), 1, 1.0)))
    with ablate(whole, _vector()), add(whole, _vector(2), layer=1):
        assert torch.equal(answer, whole.generate(IDS, max_new_tokens=4, do_sample=False))
    assert torch.equal(_logits(parts), _logits(whole))


@pytest.mark.skipif(find_spec("peft") is None, reason="needs peft")
def test_a_model_in_peft():
    peft = import_module("peft")
    plain = tiny_model("llama")[0]
    expected = _expected(plain, ablation(_vector()))
    wrapped = peft.get_peft_model(
        plain, peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=2, task_type="CAUSAL_LM")
    )
    wrapped.eval()
    with ablate(wrapped, _vector()):
        _assert_close(_logits(wrapped), expected)  # fresh adapters change nothing
        wrapped.generate(IDS, max_new_tokens=2, do_sample=False)


def test_in_a_transformer_lens_session(tiny_folder):
    """``run_with_cache`` sees ablated activations, and leaves the intervention on."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(tiny_folder("gemma2")), device="cpu", dtype=torch.float32)
    unit = (_vector() / _vector().norm()).float()
    model = tiny_model("gemma2")[0]
    with ablate(bridge, _vector()):
        for _ in range(2):
            logits, cache = bridge.run_with_cache(IDS)
            for point in ("resid_pre", "resid_mid", "resid_post", "mlp_out"):
                assert float((cache[f"blocks.2.hook_{point}"] @ unit).abs().max()) < 1e-4
        _assert_close(logits, _expected(model, ablation(_vector())))
    _, cache = bridge.run_with_cache(IDS)
    assert float((cache["blocks.2.hook_resid_post"] @ unit).abs().max()) > 0.1


SESSION = """
import json, socket, sys

def offline(*args, **kwargs):
    raise RuntimeError("phoned home")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = offline
import torch
from nnsight import LanguageModel
from refusal_lightning.api.acting import ablate, add

model = LanguageModel(sys.argv[1], dispatch=True)
generator = torch.Generator().manual_seed(1)
vector = torch.randn(32, dtype=torch.float64, generator=generator)
unit = (vector / vector.norm()).float()
ids = torch.arange(5, 25)[None]

def along():
    with model.trace(ids):
        stream = model.model.layers[2].output.save()
        logits = model.lm_head.output.save()
    stream = stream[0] if isinstance(stream, tuple) else stream
    return float((stream @ unit).abs().max()), logits.detach()

before, _ = along()
with ablate(model, vector):
    within, logits = along()
with add(model, vector, layer=1):
    _, added = along()
after, _ = along()
print(json.dumps([before, within, after, logits[0, -1].tolist(), added[0, -1].tolist()]))
"""


@pytest.mark.skipif(find_spec("nnsight") is None, reason="needs nnsight")
def test_in_an_nnsight_session(tiny_folder, tmp_path):
    """A trace sees ablated activations. In a process of its own: importing nnsight changes every object."""
    script = tmp_path / "session.py"
    script.write_text(SESSION)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_folder("llama"))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, within, after, ablated, added = json.loads(done.stdout.splitlines()[-1])
    assert before == after > 0.1 and within < 1e-4
    model = _load(tiny_folder("llama"), dtype=torch.float32)
    for found, intervention in ((ablated, ablation(_vector())), (added, addition(_vector(), 1, 1.0))):
        _assert_close(torch.tensor(found), _expected(model, intervention)[0, -1])
