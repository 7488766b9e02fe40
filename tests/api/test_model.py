"""``rl.load_model``: settings, devices, answers under what is active."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import refusal_lightning as rl
from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.shutdown import state
from refusal_lightning.distributed.trainer import build_trainer
from refusal_lightning.interventions import Intervention, KeyedIntervention, ablation, addition


@pytest.fixture(scope="module")
def model(tiny_llama_folder):
    return rl.load_model(tiny_llama_folder, device="cpu", progress_bar=False, refusal_tokens=["I"])


ASKED = ["Write a letter.", "Explain a vector to children.", "Help!"]
VECTOR = torch.arange(32, dtype=torch.float64) - 10


def test_what_it_says_of_itself(model, tiny_llama_folder):
    assert (model.name, model.n_layers, model.d_model) == (str(tiny_llama_folder), 4, 32)
    assert model.device == torch.device("cpu")
    assert model.config.refusal_tokens == ["I"]
    assert model.encode("Help!") == model.chat.encode("Help!")


def test_answers_are_those_of_each_instruction_alone(model):
    together = model.generate(ASKED, 8)
    assert together == [answer for each in ASKED for answer in model.generate(each, max_new_tokens=8)]
    assert all(together)
    assert model.generate([]) == []


def test_answers_under_what_is_active(model):
    plain = model.generate(ASKED, 8)
    with model.under(KeyedIntervention(ablation(VECTOR))):
        ablated = model.generate(ASKED, 8)
        with model.under(KeyedIntervention(addition(VECTOR, 2, 1.0))):
            both = model.generate(ASKED, 8)
        assert model.generate(ASKED, 8) == ablated
    assert model.active == []
    assert len({tuple(plain), tuple(ablated), tuple(both)}) == 3
    assert model.generate(ASKED, 8) == plain


def test_interventions_by_their_names(model):
    """``rl.ablate`` and the like, against the interventions of `evaluate`."""
    direction = rl.Direction(VECTOR, 2, -1, model.n_layers, model.name, model.identity)
    adding = KeyedIntervention(addition(VECTOR, 2, -1.0))
    for acts, expected in (
        ([rl.ablate(model, direction)], [KeyedIntervention(ablation(VECTOR))]),
        ([rl.add(model, direction, coefficient=-1.0)], [adding]),
        ([rl.intervene(model, "actadd", direction)], [adding]),
        (
            [rl.add(model, VECTOR, layer=2, coefficient=-1), rl.ablate(model, VECTOR)],
            [adding, KeyedIntervention(ablation(VECTOR))],
        ),
    ):
        with ExitStack() as stack:
            for each in expected:
                stack.enter_context(model.under(each))
            answers = model.generate(ASKED, 8)
        with ExitStack() as stack:
            for act in acts:
                stack.enter_context(act)
            assert model.generate(ASKED, 8) == answers
        assert model.active == [] and answers != model.generate(ASKED, 8)


def test_a_direction_of_other_weights_is_refused(model):
    other = {**model.identity, "model": {"weights_sha256": "0" * 64}}
    direction = rl.Direction(VECTOR, 2, -1, model.n_layers, "another", other)
    with pytest.raises(rl.UserError, match="the direction was made for another"), rl.ablate(model, direction):
        pass
    with rl.ablate(model, direction.moved_to(model)):
        assert len(model.active) == 1


def test_what_is_active_leaves_in_any_order_and_after_an_exception(model):
    first, second = (KeyedIntervention(ablation(VECTOR)) for _ in range(2))
    one, other = model.under(first), model.under(second)
    one.__enter__(), other.__enter__()
    one.__exit__(None, None, None)
    assert model.active == [second] or model.active[0] is second
    other.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError), model.under(first):
        _ = 1 / 0
    assert model.active == []


def test_sampling_is_of_its_seed(model):
    drawn = [model.generate(ASKED, 8, sampling={"temperature": 2.0, "seed": seed}) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_in_a_running_event_loop(model):
    async def cell():
        return model.generate(ASKED[:1], 4)

    assert asyncio.run(cell()) == model.generate(ASKED[:1], 4)


def test_nothing_is_left_behind(model):
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    model.generate(ASKED[:1], 2)
    assert {name: signal.getsignal(name) for name in handlers} == handlers
    assert (state.requested, state.agreed, state.deferred, state.watchdog) == (False, False, 0, None)


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """SIGINT as a terminal's program has it: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_one_and_the_next_one_too(model, hears_interrupts):
    """A notebook's stop button: Lightning would end the process, and never hear of another interrupt."""

    def interrupt(activation, hook):
        raise KeyboardInterrupt

    stopped = KeyedIntervention(Intervention("stopped", lambda n_layers: [("blocks.1.hook_resid_pre", interrupt)]))
    handler = signal.getsignal(signal.SIGINT)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), model.under(stopped):
            model.generate(ASKED[:1], 2)
    assert signal.getsignal(signal.SIGINT) is handler is not signal.SIG_IGN
    assert state.deferred == 0
    assert model.generate(ASKED[:1], 2)


def test_the_bar_of_a_notebook(monkeypatch):
    """By tqdm, which shows text where there are no widgets."""
    from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

    def bars(**settings):
        trainer: Any = build_trainer(TrainerConfig(accelerator="cpu", **settings))
        return [type(one) for one in trainer.callbacks if isinstance(one, ProgressBar)]

    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert bars() != [TQDMProgressBar]
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert bars() == [TQDMProgressBar]
    assert bars(progress_bar=False) == []


@pytest.mark.parametrize(
    "device, said",
    [("tpu", "there is no device 'tpu'"), ("cpu:1", "there is no device"), ("cuda:x", "there is no device")],
)
def test_devices_that_are_none(device, said):
    with pytest.raises(rl.UserError, match=said):
        rl.load_model("demo", device=device)


def test_settings_that_are_none(model):
    with pytest.raises(rl.UserError, match="model has no key 'dtyp'; did you mean dtype"):
        rl.load_model("demo", dtyp="float32")
    with pytest.raises(rl.UserError, match="one here is of type int"):
        model.generate(["a", 3])
    with pytest.raises(rl.UserError, match="max_new_tokens is 0"):
        model.generate(["a"], 0)
    with pytest.raises(rl.UserError, match=r"sampling.temperature is 0"):
        model.generate(["a"], 1, sampling={"temperature": 0})
