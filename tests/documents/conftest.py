"""What the tests of documents share: a folder like a clone, with a run in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_examples import Example, lay_out, run_example

STAGES = ("cache", "select", "analyze", "evaluate")


@pytest.fixture(scope="session")
def clone(tmp_path_factory, tiny_llama_folder) -> Path:
    """A folder like a clone, with a run of the demo's configuration on a tiny model in it; only to be read."""
    folder: Path = tmp_path_factory.mktemp("clone")
    lay_out(folder, tiny_llama_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            command = f"python -m refusal_lightning {stage} --config configs/demo.yaml\n"
            run_example(Example("sh", command, None), folder)
    return folder
