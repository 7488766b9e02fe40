"""Decoding rows that are under several interventions, in a batch that is kept full.

A row that has ended makes room for one that waits, so no slot decodes for the longest answer's sake. What a row gets
is what ``decode_greedily`` gives it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_lightning.inference.decoding import StoppingRule
from refusal_lightning.inference.kv_cache import SlotCache
from refusal_lightning.inference.prefix_cache import continued_pass, prefix_pass, shared_length
from refusal_lightning.inference.sampling import Sampling
from refusal_lightning.inference.slots import Slots
from refusal_lightning.interventions import Intervention, RowInterventions, intervene
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.tokens import left_pad

PROMPT_TOKENS = 4096
"""Most tokens, padding included, of a pass over newcomers' prompts; bounds its memory."""


@dataclass(frozen=True)
class Row:
    """A prompt to answer under an intervention (its place in the list), with its random numbers if sampling."""

    token_ids: Sequence[int] = field(repr=False)
    intervention: int
    draws: Tensor | None = field(default=None, repr=False)

    def draw(self, n: int) -> Tensor:
        """Its random number for token ``n``."""
        assert self.draws is not None
        return self.draws[n]


@torch.inference_mode()
def decode_rows(
    engine: Engine,
    rows: Sequence[Row],
    interventions: Sequence[Intervention],
    stopping: StoppingRule,
    n_slots: int,
    sampling: Sampling | None = None,
    share: bool = True,
) -> list[list[int]]:
    """The rows' answers as token ids, without the stop token, in the order given.

    ``share`` says whether the beginning that all prompts have is computed once per intervention.
    """
    answers: list[list[int]] = [[] for _ in rows]
    weight = engine.model.get_input_embeddings().weight
    acting = RowInterventions(interventions, weight.device, weight.dtype)
    slots = Slots([len(row.token_ids) for row in rows], n_slots)
    last = [0] * len(slots.rows)  # each slot's last token

    def take(some: Sequence[int], logits: Float[Tensor, "slot vocab"]) -> None:
        """These slots' next tokens join their answers; a row whose answer ends leaves."""
        numbers = [slots.row(slot) for slot in some]
        if sampling is None:
            chosen = logits.argmax(-1)
        else:
            chosen = sampling.choose(logits, torch.stack([rows[row].draw(len(answers[row])) for row in numbers]))
        for slot, row, token in zip(some, numbers, chosen.tolist(), strict=True):
            last[slot] = token
            stops = token in stopping.stop_ids
            if not stops:
                answers[row].append(token)
            n_tokens = len(rows[row].token_ids) + len(answers[row])
            if stops or len(answers[row]) == stopping.max_new_tokens or stopping.fills_context(n_tokens):
                slots.leave(slot)

    with intervene(engine, acting.intervention()):
        decoder = _Decoder(
            engine.model, rows, acting, len(interventions), len(slots.rows), stopping.max_new_tokens, share
        )
        while not slots.done:
            busy = slots.busy
            for came, logits in decoder.prefill(slots.arrivals(), busy):
                take(came, logits)
            stay = slots.compact()
            if stay is not None:
                decoder.keep(stay)
                last = [last[slot] for slot in stay]
            busy = slots.busy
            if busy:
                logits = decoder.step(last, [0 if row is None else rows[row].intervention for row in slots.rows], busy)
                take(busy, logits[busy])
    return answers


class _Decoder:
    """The model's passes: over newcomers' prompts, and over one token of every slot."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        acting: RowInterventions,
        n_interventions: int,
        n_slots: int,
        max_new_tokens: int,
        share: bool,
    ) -> None:
        self.model, self.rows, self.acting = model, rows, acting
        prompts = [row.token_ids for row in rows]
        longest = max(len(prompt) for prompt in prompts) + max_new_tokens
        self.device = model.get_input_embeddings().weight.device
        self.shared = shared_length(prompts) if share else 0
        prefix = torch.tensor([list(prompts[0][: self.shared])], dtype=torch.long, device=self.device)
        acting.use(range(n_interventions))
        self.past = prefix_pass(model, prefix, n_interventions)
        self.cache = SlotCache(n_slots, longest, self.device)

    def prefill(
        self, arrivals: Sequence[tuple[int, int]], busy: Sequence[int]
    ) -> Iterator[tuple[list[int], Float[Tensor, "row vocab"]]]:
        """Rows take slots, longest first: for each pass over their prompts, which slots, and logits of the next tokens.

        ``busy`` are the slots that other rows are in.
        """
        busy = list(busy)
        while arrivals:
            width = len(self.rows[arrivals[0][1]].token_ids) - self.shared
            n_rows = max(1, PROMPT_TOKENS // width)
            now, arrivals = arrivals[:n_rows], arrivals[n_rows:]
            came = [slot for slot, _ in now]
            rows = [self.rows[row] for _, row in now]
            ids, mask = (t.to(self.device) for t in left_pad([row.token_ids for row in rows]))
            numbers = [row.intervention for row in rows]
            self.acting.use(numbers)
            of_past = torch.tensor(numbers, device=self.device)
            logits, filled = continued_pass(self.model, ids[:, self.shared :], mask, self.past, of_past)
            layers: list[Any] = list(filled.layers)
            self.cache.put(came, [(layer.keys, layer.values) for layer in layers], mask, busy)
            busy += came
            yield came, logits

    def step(
        self, tokens: Sequence[int], interventions: Sequence[int], busy: Sequence[int]
    ) -> Float[Tensor, "slot vocab"]:
        """Every slot reads its last token: the next ones' logits."""
        self.acting.use(interventions)
        cache, mask, positions = self.cache.step(busy)
        return self.model(
            input_ids=torch.tensor(tokens, device=self.device).unsqueeze(1),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def keep(self, slots: Sequence[int]) -> None:
        """Only these slots remain."""
        self.cache.keep(slots)
