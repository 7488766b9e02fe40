"""Losses of `evaluate` on several sets, against one plain float64 computation per text."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from refusal_lightning.cli import main
from refusal_lightning.config import DataConfig, EvaluateConfig, SetConfig
from refusal_lightning.data.texts import Text
from refusal_lightning.errors import UserError
from refusal_lightning.inputs.loss_texts import own_completions, read_loss_sets, scored_text
from refusal_lightning.models import load_chat_model
from refusal_lightning.report.html import render_report
from refusal_lightning.report.summary import read_summary, terminal_table
from refusal_lightning.runs.folder import RunFolder
from runs import write_config, write_data

OWN_COMPLETIONS = "alpaca_custom_completions"
PLAIN = [{"text": "Write a short letter of thanks to the people " * n} for n in (1, 2, 9)] + [{"text": "I"}]
CHAT = [{"instruction": "Name a bird", "output": "A thrush is one."}, {"instruction": "And a tree", "output": "Oak"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama_folder: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("losses")
    data = write_data(folder / "data", test=3)
    (folder / "plain.json").write_text(json.dumps(PLAIN))
    (folder / "chat.json").write_text(json.dumps(CHAT))
    sets = {
        "talk": {"source": str(folder / "chat.json"), "columns": {"instruction": "instruction", "response": "output"}}
    }
    config = write_config(
        folder,
        tiny_llama_folder,
        data,
        data={"sets": sets},
        evaluate={"losses": [OWN_COMPLETIONS, str(folder / "plain.json"), "talk"], "loss_max_tokens": 40},
    )
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    return folder / "runs" / "tiny", config


def _folder(path: Path) -> RunFolder:
    return RunFolder(path.parent, path.name)


def plainly(model, ids: list[int], first: int) -> tuple[float, int]:
    """Summed negative log-likelihood of a text's tokens from ``first`` on, in float64, and their count."""
    if len(ids) <= first:
        return 0.0, 0
    with torch.inference_mode():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(float(log_probs[t - 1, ids[t]]) for t in range(first, len(ids))), len(ids) - first


def test_each_set_is_a_plain_float64_computation(run, tiny_llama_folder: Path):
    folder, _ = run
    found = json.loads((folder / "loss_evals" / "baseline_loss_eval.json").read_text())
    assert list(found) == ["plain", "talk", OWN_COMPLETIONS]
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder, dtype=torch.float64, attn_implementation="eager")
    tokenizer = load_chat_model(str(tiny_llama_folder)).tokenizer
    texts = {"plain": [(tokenizer(row["text"])["input_ids"][:40], 1) for row in PLAIN], "talk": []}
    for row in CHAT:
        prompt = f"<s><|user|>\n{row['instruction']}<|end|>\n<|assistant|>\n"
        before, whole = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, prompt + row["output"]))
        texts["talk"].append((whole, len(before)))
    for name, scored in texts.items():
        sums = [plainly(model, ids, first) for ids, first in scored]
        n_tokens = sum(n for _, n in sums)
        mean = math.fsum(loss for loss, _ in sums) / n_tokens
        assert found[name]["n_tokens"] == n_tokens
        assert found[name]["ce_loss"] == pytest.approx(mean, abs=1e-5)
        assert found[name]["perplexity"] == pytest.approx(math.exp(found[name]["ce_loss"]))


def test_every_intervention_has_every_set_and_the_table_shows_them(run, capsys):
    folder, config = run
    entries = [json.loads(p.read_text()) for p in sorted((folder / "loss_evals").iterdir())]
    assert len(entries) == 3
    assert all(set(entry) == {OWN_COMPLETIONS, "plain", "talk"} for entry in entries)
    assert len({entry["plain"]["ce_loss"] for entry in entries}) == 3
    assert main(["evaluate", "--config", config]) == 0
    out = capsys.readouterr().out
    assert "nothing to compute" in out
    assert "CE loss, plain" in out and "CE loss, talk" in out and "CE loss, own harmless answers" in out


def test_so_many_batches_and_no_more(run, tiny_llama_folder: Path):
    folder, _ = run
    chat = load_chat_model(str(tiny_llama_folder))
    config = EvaluateConfig(losses=[str(folder.parents[1] / "plain.json")], loss_batch_size=2, loss_n_batches=1)
    assert len(read_loss_sets(chat, DataConfig(), config)["plain"]) == 2


def test_rows_of_a_text_set_cannot_be_chosen(run, tiny_llama_folder: Path):
    folder, _ = run
    chat = load_chat_model(str(tiny_llama_folder))
    data = DataConfig(sets={"talk": SetConfig(str(folder.parents[1] / "chat.json"), where={"output": "Oak"})})
    with pytest.raises(UserError, match=r"data\.sets\.talk\.where: .* taken whole"):
        read_loss_sets(chat, data, EvaluateConfig(losses=["talk"]))


def test_without_losses_there_are_none(tiny_llama_folder: Path):
    chat = load_chat_model(str(tiny_llama_folder))
    assert read_loss_sets(chat, DataConfig(), EvaluateConfig(losses=[])) == {}


def test_nothing_beyond_the_context(tiny_llama_folder: Path):
    chat = load_chat_model(str(tiny_llama_folder))
    assert chat.context == 512
    assert len(scored_text(chat, Text("word " * 2000)).ids) == 512
    answer = scored_text(chat, Text("word " * 2000, "Say it"))
    assert len(answer.ids) == 512 and answer.first == len(chat.encode("Say it"))


def test_a_first_token_that_merges_with_the_template(tiny_llama_folder: Path):
    """It holds some of the answer and counts, but for the authors' mask, which begins behind it; else both are one."""
    chat = load_chat_model(str(tiny_llama_folder))
    template = replace(chat.template, render=lambda instruction: f"{instruction}: ")
    chat = replace(chat, template=template)
    for answer, merges in (("the list", True), ("4 of them", False)):
        before, whole = (chat.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("Go: ", f"Go: {answer}"))
        assert (before == whole[: len(before)]) != merges
        ours, paper = (scored_text(chat, Text(answer, "Go"), mask=mask) for mask in ("answer", "paper"))
        assert ours.ids == paper.ids == [*template.bos_ids, *whole]
        assert (ours.first, paper.first) == (len(before) - merges, len(before))
        assert own_completions(chat, [("Go", answer)], "paper") == [paper]


def test_the_mask_is_in_each_result_and_in_its_key(run, capsys):
    folder, config = run
    for mask in ("paper", "answer"):
        assert main(["evaluate", "--config", config, "--evaluate.loss_mask", mask]) == 0
        entries = json.loads((folder / "loss_evals" / "ablation_loss_eval.json").read_text())
        assert {entry["loss_mask"] for entry in entries.values()} == {mask}
        assert json.loads((folder / "run.json").read_text())["evaluate"]["config"]["evaluate"]["loss_mask"] == mask
    assert "nothing to compute" in capsys.readouterr().out  # nothing merges here, so both have the same texts


def test_two_sets_of_one_name_and_no_such_set(run, tiny_llama_folder: Path, capsys):
    folder, config = run
    chat = load_chat_model(str(tiny_llama_folder))
    path = str(folder.parents[1] / "plain.json")
    data = DataConfig(sets={"plain": SetConfig(path)})
    with pytest.raises(UserError, match=r"two sets would both be called plain"):
        read_loss_sets(chat, data, EvaluateConfig(losses=["plain", path]))
    assert main(["evaluate", "--config", config, "--evaluate.losses", '["nothing.json"]']) == 2
    assert "nothing.json does not exist" in capsys.readouterr().err


def test_comparisons_and_intervals(run):
    folder, _ = run
    compared = json.loads((folder / "completions" / "harmful_test_comparisons.json").read_text())["comparisons"]
    assert [(row["first"], row["second"]) for row in compared] == [
        ("baseline", "ablation"),
        ("baseline", "actadd"),
        ("ablation", "actadd"),
    ]
    summary = read_summary(_folder(folder))
    assert len(summary.differences) == 4 and {d.dataset for d in summary.differences} == {
        "harmful_test",
        "harmless_test",
    }
    for difference in summary.differences:
        first, second = (
            next(r for r in summary.rates if (r.dataset, r.intervention) == (difference.dataset, name))
            for name in ("baseline", difference.intervention)
        )
        assert difference.change == pytest.approx(second.count / second.total - first.count / first.total)
        assert difference.change is not None and second.share is not None and second.interval is not None
        assert difference.interval[0] <= difference.change <= difference.interval[1]
        assert second.interval[0] <= second.share <= second.interval[1]
    report = render_report(summary, _folder(folder))
    assert "Change of that share" in report and "McNemar" in report


def test_nothing_that_could_be_judged(run):
    folder, _ = run
    summary = read_summary(_folder(folder))
    none = [replace(rate, count=0, total=0, interval=None) for rate in summary.rates]
    assert "none judged" in terminal_table(replace(summary, rates=none), folder)
    assert "none judged" in render_report(replace(summary, rates=none), _folder(folder))
