"""Every run proves its own hooks: on its own model and prompts, before the weights are used."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest
from refusal_lightning.io.serialization import write_json
from refusal_lightning.models import ChatModel

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PROOF_VERSION = 2
"""Raised when the checks change: figures of another version are not shown beside a run's results."""


RESERVE = 4
"""Prompts of each kind that half precision is judged by, where it fails on the two."""

Kinds = tuple[list[list[int]], list[list[int]]]
"""Token ids of harmful and of harmless prompts."""


class HookProof:
    """A stage's proof. Nothing happens unless the weights are used; then it runs first, on every process's own device.

    The figures are kept with the run's journals, so that a later run that computes nothing still has them.
    """

    def __init__(
        self,
        stage: str,
        chat: ChatModel,
        folder: Path,
        work: Sequence[str],
        harmful: Sequence[list[int]] = (),
        harmless: Sequence[list[int]] = (),
    ) -> None:
        """``work`` is what the stage will do with the model (see ``doctor.guard``).

        The prompts are token ids; where there are fewer than two different ones, they are of the project's own.
        """
        self._stage, self._chat, self._work = stage, chat, tuple(work)
        if len({tuple(ids) for ids in (*harmful, *harmless)}) < 2:
            harmful, harmless = _neutral(chat)
        self._prompts, self._more = guard_prompts(harmful, harmless)
        self._longest = [max((*harmful, *harmless), key=len)]
        key = digest([PROOF_VERSION, chat.identity, self._work, self._prompts])
        self._path = folder / f"hooks-{stage}-{key}.proof"
        chat.weights.guard_with(self._prove)

    def figures(self) -> dict[str, Any] | None:
        """What each check compared, its figure and bound, by its name; None where this run never loaded the model."""
        try:
            return dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _prove(self, device: str | torch.device) -> None:
        """Raises UserError where a check fails."""
        from refusal_lightning.doctor.context import CheckContext
        from refusal_lightning.doctor.guard import prove_hooks

        started = time.perf_counter()
        first, more = (
            CheckContext(self._chat, device, *prompts, self._longest) for prompts in (self._prompts, self._more)
        )
        found = prove_hooks(first, more, self._work)
        seconds = time.perf_counter() - started
        if is_main_process():
            write_json(self._path, found)
        each = ", ".join(f"{name} {entry['figure']:.1g}" for name, entry in found.items())
        log.info(f"{self._stage}: hooks proved on two prompts in {seconds:.1f} s ({each})")


def guard_prompts(harmful: Sequence[list[int]], harmless: Sequence[list[int]]) -> tuple[Kinds, Kinds]:
    """One prompt of each kind, and up to ``RESERVE`` of each for a second look: the shortest.

    The two differ, if they can by a little in length, so that one is padded in the other's batch. The order of the
    prompts does not matter. One kind may be missing: then the other gives both. There are two different ones.
    """
    kinds = [sorted({tuple(ids) for ids in some}, key=lambda ids: (len(ids), ids))[:50] for some in (harmful, harmless)]
    pairs = [(a, b) for a in kinds[0] or kinds[1] for b in kinds[1] or kinds[0] if a != b]

    def order(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Any, ...]:
        shorter, longer = sorted(map(len, pair))
        return not 0 < longer - shorter <= max(1, longer // 10), longer + shorter, pair

    first, second = min(pairs, key=order)
    more = [[list(ids) for ids in kind[:RESERVE]] for kind in kinds]
    return ([list(first)], [list(second)]), (more[0], more[1])


def _neutral(chat: ChatModel) -> Kinds:
    """Prompts of the project's own questions."""
    from refusal_lightning.doctor.context import PROBES

    first, *others = (chat.encode(instruction) for instruction in PROBES)
    return [first], others
