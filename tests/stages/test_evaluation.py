"""The evaluation as a function: inputs and a folder for its journals in, a result out."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from refusal_lightning.config import EvaluateConfig, TrainerConfig
from refusal_lightning.data.texts import Text
from refusal_lightning.inputs.evaluation_sets import EvaluationSet
from refusal_lightning.inputs.loss_texts import scored_text
from refusal_lightning.inputs.prompts import prompt_set
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.weights import Weights
from refusal_lightning.runs.folder import SelectedDirection
from refusal_lightning.stages.evaluate.evaluation import evaluate_direction
from refusal_lightning.stages.evaluate.inputs import EvaluationInputs


@pytest.fixture
def inputs(tiny_llama_folder: Path) -> EvaluationInputs:
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    vector = torch.randn(chat.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prompts = prompt_set("birds", ["Name a bird", "And another one"], chat)
    return EvaluationInputs(
        chat,
        SelectedDirection(vector, -1, 1),
        [EvaluationSet("harmless", prompts, [None, "more"])],
        {"talk": [scored_text(chat, Text("A thrush is one.", "Name a bird"))]},
        judges_by_name(["substring"]),
        EvaluateConfig(max_new_tokens=3, interventions=["actadd", "baseline"]),
        trainer=TrainerConfig(accelerator="cpu", progress_bar=False),
    )


def test_an_evaluation_needs_no_run(inputs: EvaluationInputs, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = evaluate_direction(inputs, tmp_path / "journals")
    assert [path.name for path in tmp_path.iterdir()] == ["journals"]
    assert capsys.readouterr().out == ""
    assert set(result.answers) == {("birds", "actadd"), ("birds", "baseline")} == set(result.evaluations)
    (judge,) = inputs.judges
    (compared,) = result.comparisons["birds"]
    assert (compared["first"], compared["second"], compared["judge"]) == ("actadd", "baseline", judge)
    for name in ("actadd", "baseline"):
        judged = result.evaluations["birds", name]
        assert judged[f"{judge}_counts"]["judged"] == 2
        assert [row["response"] for row in judged["completions"]] == [c.response for c in result.answers["birds", name]]
        assert list(result.loss_entries[name]) == ["talk", "alpaca_custom_completions"] == list(result.text_digests)
    assert result.n_computed == 4 + 2 * (1 + 2)  # completions, and texts under two interventions
    with pytest.raises(FrozenInstanceError):
        result.loss_entries = {}  # type: ignore[misc]


def test_what_is_done_is_not_done_again(inputs: EvaluationInputs, tmp_path: Path, monkeypatch):
    """Nor are weights loaded."""
    first = evaluate_direction(inputs, tmp_path)
    monkeypatch.setattr(Weights, "engine", lambda *_: pytest.fail("the model was loaded"))
    inputs.chat.release()
    again = evaluate_direction(inputs, tmp_path)
    assert again.n_computed == 0
    assert replace(again, n_computed=first.n_computed) == first
