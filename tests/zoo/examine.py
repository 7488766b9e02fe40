"""What holds on an architecture: the package's passes against plain ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from architectures import N_LAYERS
from on_cpu import SYSTEM, Generation, Loss, Scores, scored
from plain import Plain
from specimens import plain_model
from torch import Tensor

from refusal_lightning.directions.selection.schedule import ScoreTask
from refusal_lightning.inference import prefix_cache, shortcuts
from refusal_lightning.interventions import BASELINE, ablation, addition, intervene, record_activations
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.modules.generation import GenerationBatch
from refusal_lightning.modules.loss import LossBatch

BOUND = 1e-4
NEW_TOKENS = 5
INSTRUCTIONS = ("Name three birds", "Say hello to all the people in the garden.", "Name three cities, and why?")
INDUCE = (0, N_LAYERS // 2, N_LAYERS - 1)


@dataclass
class Found:
    """What was found: how it is run, and what differs from plain passes, by more than the bound."""

    way: str
    wrong: dict[str, float]


def examine(name: str, folder: Path) -> Found:
    """Hold the package to plain passes on a saved model. Raises UserError where the package refuses it."""
    chat = load_chat_model(str(folder), refusal_tokens=["I", " the"], alias=name)
    chat.engine("cpu")
    plain = Plain(plain_model(name, folder), N_LAYERS)
    prompts = [chat.encode(f"{SYSTEM} {instruction}") for instruction in INSTRUCTIONS]
    directions = torch.randn((chat.n_positions, N_LAYERS, chat.d_model), dtype=torch.float64, generator=_seeded(3))
    checks: dict[str, Callable[[], float]] = {
        "activations": lambda: _activations(chat, plain, prompts),
        "ablation": lambda: _ablation(chat, prompts, directions[-1, 1]),
        "loss": lambda: _loss(chat, plain, prompts, directions[-1, 1]),
        "answers": lambda: _answers(chat, plain, prompts, directions[-1, 1]),
    }
    for kind in ("bypass", "induce", "kl"):
        for shared in (True, False):
            checks[f"{kind}{', shared beginning' if shared else ''}"] = partial(
                _scores, chat, plain, prompts, directions, kind, shared
            )
    wrong = {}
    with torch.inference_mode(), _said() as said:
        for what, check in checks.items():
            figure = check()
            if not figure <= BOUND:
                wrong[what] = figure
    ways = [
        text
        for text, sign in (
            ("prompts whole", "prompts are run whole"),
            ("all blocks", "induce scores run all blocks"),
            ("no cache", "every token is decoded in a whole pass"),
        )
        if any(sign in line for line in said)
    ]
    return Found(", ".join(ways) or "all", wrong)


@contextmanager
def _said() -> Iterator[list[str]]:
    """What the package says of ways to save work that it does not take."""
    said: list[str] = []
    log, handler = logging.getLogger(shortcuts.__name__), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm(dim=-1).div(theirs.double().norm(dim=-1).clamp(min=1e-9)).max())


def _activations(chat: ChatModel, plain: Plain, prompts: list[list[int]]) -> float:
    """``resid_pre`` at the eoi positions in a padded batch, as `cache` reads it."""
    ids, mask = left_pad(prompts)
    n = chat.n_positions
    engine = chat.engine("cpu")
    with record_activations(engine, ["resid_pre"], range(N_LAYERS), lambda x: x[:, -n:]) as captured:
        engine(ids, attention_mask=mask, logits_to_keep=1)
    ours = torch.stack([captured["resid_pre", layer] for layer in range(N_LAYERS)], dim=1)
    return max(_relative(row, plain.streams(prompt)[:, -n:]) for row, prompt in zip(ours, prompts, strict=True))


def _ablation(chat: ChatModel, prompts: list[list[int]], vector: Tensor) -> float:
    """The largest projection on an ablated direction, relative to the stream, at all blocks and all tokens."""
    ids, mask = left_pad(prompts)
    engine = chat.engine("cpu")
    seen: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> None:
        seen.append(x[mask.bool()].double())

    points = [f"blocks.{layer}.hook_resid_{point}" for layer in range(N_LAYERS) for point in ("pre", "mid", "post")]
    pairs = [(point, keep) for point in points if point in engine.hook_names]
    with intervene(engine, ablation(vector)), engine.hooks(fwd_hooks=pairs):
        engine(ids, attention_mask=mask)
    unit = vector / vector.norm()
    return max(float((x @ unit).abs().max() / x.norm(dim=-1).max()) for x in seen)


@contextmanager
def _under(plain: Plain, name: str, vector: Tensor, layer: int) -> Iterator[None]:
    contexts: dict[str, AbstractContextManager[None]] = {
        "baseline": nullcontext(),
        "ablation": plain.ablated(vector),
        "actadd": plain.added(vector, layer),
    }
    with contexts[name]:
        yield


def _loss(chat: ChatModel, plain: Plain, prompts: list[list[int]], vector: Tensor) -> float:
    """Cross-entropy of texts in a padded batch; each prompt's last tokens stand in for an answer."""
    n_scored = 6
    ids, mask = left_pad(prompts)
    scored = (torch.arange(ids.shape[1]) >= ids.shape[1] - n_scored).expand(ids.shape)
    figure = 0.0
    for name, intervention in (("baseline", BASELINE), ("ablation", ablation(vector))):
        sums = Loss(chat, intervention).predict_step(LossBatch(list(range(len(ids))), ids, mask, scored))
        for prompt, ours in zip(prompts, sums.loss, strict=True):
            with _under(plain, name, vector, 1):
                log_p = plain.logits(prompt).log_softmax(-1)
            theirs = -sum(float(log_p[i - 1, prompt[i]]) for i in range(len(prompt) - n_scored, len(prompt)))
            figure = max(figure, abs(ours - theirs) / abs(theirs))
    return figure


def _answers(chat: ChatModel, plain: Plain, prompts: list[list[int]], vector: Tensor) -> float:
    """How far an answer's tokens are below the likeliest ones of a plain pass over prompt and answer.

    Relative to the logits' spread: 0 where each is the likeliest, and a tie's rounding where two are as likely.
    """
    interventions = {"baseline": BASELINE, "ablation": ablation(vector), "actadd": addition(vector, 1, 1.0)}
    rows = [(prompt, number) for number in range(3) for prompt in prompts]
    made: list[list[int]] = []
    second = [*prompts[0], int(plain.logits(prompts[0])[-1].argmax())]
    chat = replace(
        chat, stop_ids=[*chat.stop_ids, int(plain.logits(second)[-1].argmax())]
    )  # so that a row leaves early
    module = Generation(chat, list(interventions.values()), NEW_TOKENS, 4)
    decode = chat.tokenizer.decode
    chat.tokenizer.decode = lambda answer, **more: made.append(list(answer)) or ""  # type: ignore[func-returns-value]
    try:
        module.predict_step(
            GenerationBatch([""] * len(rows), [p for p, _ in rows], [""] * len(rows), [n for _, n in rows])
        )
    finally:
        chat.tokenizer.decode = decode
    figure = 0.0 if len(made[0]) <= 1 else math.inf
    for (prompt, number), answer in zip(rows, made, strict=True):
        with _under(plain, list(interventions)[number], vector, 1):
            logits = plain.logits([*prompt, *answer])[len(prompt) - 1 :]
        told = answer if len(answer) == NEW_TOKENS else [*answer, None]
        for row, token in zip(logits, told, strict=False):
            chosen = max(float(row[stop]) for stop in chat.stop_ids) if token is None else float(row[token])
            figure = max(figure, (float(row.max()) - chosen) / float(row.std()))
    return figure


def _scores(
    chat: ChatModel,
    plain: Plain,
    prompts: list[list[int]],
    directions: Tensor,
    kind: Any,
    shared: bool,
) -> float:
    """Scores of all prompts, of two candidates or layers, against the formulas written out here."""
    worth = prefix_cache.WORTH_SHARING
    prefix_cache.WORTH_SHARING = worth if shared else 1000
    baseline = torch.stack([plain.logits(prompt)[-1] for prompt in prompts])
    groups = [((-1, 1), (-2, 2))] if kind != "induce" else [((-1, layer), (-2, layer)) for layer in INDUCE]
    figure = 0.0
    try:
        module = Scores(chat, directions, scored(prompts, baseline.float()), kind, 4)
        module.on_predict_start()
        for places in groups:
            result = module.predict_step(ScoreTask(kind, places))
            for (position, layer), row in zip(places, result.scores, strict=True):
                name = "actadd" if kind == "induce" else "ablation"
                for i, prompt in enumerate(prompts):
                    with _under(plain, name, directions[position, layer], layer):
                        after = plain.logits(prompt)[-1].softmax(-1)
                    if kind == "kl":
                        before = baseline[i].softmax(-1)
                        score = float((before * ((before + 1e-6).log() - (after + 1e-6).log())).sum())
                    else:
                        p = after[chat.refusal_ids].sum()
                        score = float((p + 1e-8).log() - (1 - p + 1e-8).log())
                    figure = max(figure, abs(row[i] - score) / max(1.0, abs(score)))
    finally:
        prefix_cache.WORTH_SHARING = worth
    return figure
