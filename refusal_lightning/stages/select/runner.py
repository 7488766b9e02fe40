"""What runs the passes of a selection, and where their results are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refusal_lightning.config import TrainerConfig
from refusal_lightning.distributed.journal import Journal
from refusal_lightning.doctor.hook_proof import HookProof
from refusal_lightning.stages.select.kept_results import MemoryResults, Results


@dataclass(frozen=True)
class Runner:
    """Where passes run, and where what they give is kept."""

    trainer: TrainerConfig
    results: Results
    """Finished results, found again by what they depend on."""
    journal_folder: Callable[[str, str], Path]
    """The folder of a journal of unfinished work, by its kind and key."""
    proof: HookProof | None = None
    """The proof of the model's hooks, which runs when the weights are loaded."""

    def journal(self, kind: str, key: str) -> Journal:
        """The journal of unfinished work of a kind, by what its results depend on."""
        return Journal(self.journal_folder(kind, key))


@contextmanager
def in_memory(trainer: TrainerConfig | None = None) -> Iterator[Runner]:
    """A runner for a notebook, in one process: results are kept while it lasts, and nothing on disk after it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Runner(trainer or TrainerConfig(), MemoryResults(), lambda kind, key: Path(folder) / f"{kind}-{key}")
