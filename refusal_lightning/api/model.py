"""``rl.load_model``: a chat model in a notebook, asked under whatever interventions are on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.api.settings import section
from refusal_lightning.config import ModelConfig, SamplingConfig, TrainerConfig
from refusal_lightning.errors import UserError
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.inputs.model import open_model
from refusal_lightning.inputs.prompts import prompt_set
from refusal_lightning.interventions import KeyedIntervention, together
from refusal_lightning.models import ChatModel
from refusal_lightning.stages.evaluate.completions import CompletionSettings, completion_task, generate_answers

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class Model:
    """A chat model, its weights loaded when they are first used (``rl.load_model`` makes one).

    In a ``with`` block of ``rl.ablate(model, direction)`` and its like, ``active`` holds what acts on the model, in
    the order in which the blocks were entered; ``generate`` answers under all of it.
    """

    config: ModelConfig
    """What it was loaded by."""
    chat: ChatModel
    """Tokenizer, template, token facts and weights."""
    trainer: TrainerConfig
    """Where passes run."""
    active: list[KeyedIntervention] = field(default_factory=list)
    """What acts on it now."""

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self.chat.name

    @property
    def identity(self) -> dict[str, Any]:
        """What its activations depend on: weights or commit, dtype, tokenizer, template."""
        return self.chat.identity

    @property
    def n_layers(self) -> int:
        """Number of its blocks."""
        return self.chat.n_layers

    @property
    def d_model(self) -> int:
        """Width of its residual stream."""
        return self.chat.d_model

    @property
    def device(self) -> torch.device:
        """What its passes run on."""
        from refusal_lightning.distributed.trainer import main_device  # Lightning takes seconds to import

        return main_device(self.trainer)

    def encode(self, instruction: str) -> list[int]:
        """Token ids of the prompt that the model reads for an instruction, template and all. Raises UserError."""
        return self.chat.encode(instruction)

    @contextmanager
    def under(self, acting: KeyedIntervention) -> Iterator[Model]:
        """In the body an intervention is on the model, also where an exception ends it."""
        self.active.append(acting)
        try:
            yield self
        finally:
            place = max(i for i, each in enumerate(self.active) if each is acting)  # equality would compare tensors
            del self.active[place]

    def generate(
        self,
        instructions: str | Sequence[str],
        max_new_tokens: int = 512,
        *,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """The model's answers to instructions, under what is ``active``, by the decoder of `evaluate`.

        ``instructions`` are plain texts, which the model's template goes around. An answer ends at a stop token or
        after ``max_new_tokens`` tokens. ``sampling`` draws answers at random, ``{"temperature": 0.7, "top_p": 0.9,
        "seed": 1}`` or some of these; None takes the likeliest tokens. ``batch_size`` is the number of answers
        that are decoded at a time (None: as many as memory holds). Raises UserError for an instruction that is no text
        or does not fit the model's context.
        """
        texts = [instructions] if isinstance(instructions, str) else list(instructions)
        if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
            raise UserError(f"generate takes instructions, which are texts; one here is of type {wrong[0]}")
        if not texts:
            return []
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more")
        settings = CompletionSettings(max_new_tokens, batch_size, _sampling(sampling))
        prompts = prompt_set("instructions", texts, self.chat)
        acting = KeyedIntervention(together([each.intervention for each in self.active]))
        task = completion_task(self.chat, prompts, acting, settings)
        with tempfile.TemporaryDirectory() as journals:
            found, _ = generate_answers(self.chat, self.trainer, [task], Path(journals), settings)
        return [made.response for made in found[0]]

    def require_plain(self, what: str) -> None:
        """Raise UserError where something acts on the model: ``what`` is of the model as it is."""
        if self.active:
            names = ", ".join(each.intervention.name for each in self.active)
            raise UserError(
                f"{what} is of the model as it is, and {names} acts on it; call it outside the `with` block"
            )

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="refusal_lightning-")

    @property
    def journals(self) -> Path:
        """A temporary folder, as long as the model lives, by which an interrupted call goes on where it was."""
        return Path(self._scratch.name)

    def release(self) -> None:
        """Let go of the weights; they are loaded again when they are next used."""
        self.chat.release()


def load_model(name: str, *, device: str = "auto", progress_bar: bool = True, **settings: Any) -> Model:
    """A chat model by its name: Hub name, local folder, or a demo model (``"demo"``).

    ``settings`` are the other keys of a configuration's model section (``ModelConfig``): ``dtype="bfloat16"``,
    ``family``, ``system_prompt``, ``refusal_tokens`` ... ``device_map="auto"`` spreads one copy over all GPUs.
    ``device`` is ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``;
    ``progress_bar`` says whether long work shows how far it is. No weights are loaded yet. Raises UserError for what
    cannot be had, and for a key that is not known.
    """
    config = section(ModelConfig, {"name": name, **settings}, "model")
    trainer = _trainer(device, progress_bar)
    return Model(config, open_model(config, trainer), trainer)


def _sampling(given: SamplingConfig | Mapping[str, Any] | None) -> Sampling | None:
    if given is None:
        return None
    config = given if isinstance(given, SamplingConfig) else section(SamplingConfig, given, "sampling")
    return Sampling(**asdict(config))


def _trainer(device: str, progress_bar: bool) -> TrainerConfig:
    kind, _, number = str(device).partition(":")
    accelerators = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "mps": "mps"}
    if kind not in accelerators or (number and (not number.isdigit() or accelerators[kind] != "gpu")):
        raise UserError(f"there is no device {device!r}; take auto, cpu, cuda, cuda:1 (a GPU by its number) or mps")
    devices: int | str = f"{number}," if number else 1  # Lightning's way to write a list of one
    return TrainerConfig(accelerator=accelerators[kind], devices=devices, progress_bar=progress_bar)
