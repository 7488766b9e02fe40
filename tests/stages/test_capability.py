"""Tasks of lm-evaluation-harness on the intervened model."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from orthogonalise import orthogonalise
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from refusal_lightning.cli import main
from refusal_lightning.config import CapabilityConfig
from refusal_lightning.errors import UserError
from refusal_lightning.interventions import BASELINE, ablation
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.weights import Weights
from refusal_lightning.stages.capability.harness import _metrics, open_tasks, run_tasks
from runs import logged_by_csv, write_config, write_data

lm_eval = pytest.importorskip("lm_eval.tasks", reason="needs the extra `capability`")
from lm_eval.tasks import TaskManager  # noqa: E402

QUESTIONS = [("Which of these walks?", ["a garden", "a letter", "people"], 2), ("A list of?", ["help", "week"], 0)]


@pytest.fixture
def tasks(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": q, "choices": choices, "answer": answer} for q, choices, answer in QUESTIONS * 3]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own.yaml").write_text(
        f"""task: own_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "own.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1.0}}
"""
    )
    return folder


def loglikelihoods(chat: ChatModel, intervention, monkeypatch) -> list[float]:
    """What the harness is told of each question and choice."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    told: list[float] = []
    original = HFLM._loglikelihood_tokens

    def listen(self, requests, **options):
        answers = original(self, requests, **options)
        told.extend(value for value, _ in answers)
        return answers

    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", listen)
    manager = TaskManager(include_path="tasks", include_defaults=False)
    config = CapabilityConfig(tasks=["own_task"])
    run_tasks(chat.fast_engine("cpu"), chat, intervention, config, manager)
    monkeypatch.undo()
    return told


def plainly(model, tokenizer) -> list[float]:
    """The same in one pass per question and choice."""
    values = []
    for question, choices, _ in QUESTIONS * 3:
        for choice in choices:
            context = tokenizer(question)["input_ids"]
            ids = tokenizer(f"{question} {choice}")["input_ids"]
            with torch.inference_mode():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            values.append(sum(logs[i - 1, ids[i]].item() for i in range(len(context), len(ids))))
    return values


def test_loglikelihoods_under_interventions(tiny_llama_folder, tasks, tmp_path, monkeypatch):
    """The harness sees the intervened model: under ablation, that of orthogonalised weights."""
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    direction = torch.randn(chat.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    monkeypatch.chdir(tmp_path)
    told = loglikelihoods(chat, BASELINE, monkeypatch)
    model = chat.fast_engine("cpu").model
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    expected = plainly(model, chat.tokenizer)
    assert sorted(told) == pytest.approx(sorted(expected), abs=1e-3)
    monkeypatch.chdir(tmp_path)
    ablated = loglikelihoods(chat, ablation(direction), monkeypatch)
    edited = AutoModelForCausalLM.from_pretrained(tiny_llama_folder, dtype=torch.float32).eval()
    orthogonalise(edited, direction / direction.norm())
    assert sorted(ablated) == pytest.approx(sorted(plainly(edited, chat.tokenizer)), abs=1e-3)
    assert max(abs(a - b) for a, b in zip(sorted(ablated), sorted(told), strict=True)) > 0.01
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("kind", ["sdpa", "bridge"])
def test_generation_settings_are_the_runs_own(tmp_path, monkeypatch, kind):
    """Of the checkpoint's settings none, and all stop tokens, whichever model decodes."""
    folder = save_tiny_model("llama", tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 1.3}))
    chat = load_chat_model(str(folder), refusal_tokens=["I"], device_map={"": "cpu"} if kind == "bridge" else None)
    decoder = chat.fast_engine("cpu")
    before = decoder.model.generation_config
    seen = []

    def evaluate(model, **_) -> dict:
        seen.append(model.model.generation_config)
        return {"results": {}, "n-samples": {}, "versions": {}, "n-shot": {}}

    monkeypatch.setattr("lm_eval.simple_evaluate", evaluate)
    made = run_tasks(decoder, chat, BASELINE, CapabilityConfig(tasks=["own_task"]), None)
    assert made["decoder"] == kind
    assert (seen[0].eos_token_id, seen[0].repetition_penalty, seen[0].do_sample) == (chat.stop_ids, None, False)
    assert decoder.model.generation_config is before


def test_a_planted_fault_ends_the_stage(tiny_llama_folder, tmp_path, capsys, monkeypatch):
    """A decoding step that attends to padding: the harness is never asked."""
    from refusal_lightning.doctor import decoding
    from refusal_lightning.stages.capability import inputs, scores

    whole = decoding.decode_batch

    def unmasked(model, ids, mask, *more):
        return whole(model, ids, torch.ones_like(mask), *more)

    data = write_data(tmp_path / "data", 6, 2)
    config = write_config(
        tmp_path, tiny_llama_folder, data, data={"n_train": 5, "n_val": 2}, capability={"tasks": ["own_task"]}
    )
    for stage in ("cache", "select"):
        assert main([stage, "--config", config]) == 0
    monkeypatch.setattr(inputs, "open_tasks", lambda _: None)
    monkeypatch.setattr(scores, "run_tasks", lambda *_: pytest.fail("the tasks were run"))
    monkeypatch.setattr(decoding, "decode_batch", unmasked)
    assert main(["capability", "--config", config]) == 2
    assert "proved wrong on tiny before its work: harness decoding, " in capsys.readouterr().err


def test_the_stage(tiny_llama_folder, tasks, tmp_path, capsys, monkeypatch):
    data = write_data(tmp_path / "data", train=6, val=2)
    settings = {"tasks": ["own_task"], "include_path": str(tasks), "limit": 4}
    sizes = {"root": str(data), "n_train": 5, "n_val": 2}
    logger = {"accelerator": "cpu", "progress_bar": False, "logger": ["csv"]}
    config = write_config(tmp_path, tiny_llama_folder, data, data=sizes, capability=settings, trainer=logger)
    # The harness's own thousands of tasks take it ten seconds to list, each time; test_mistakes does.
    monkeypatch.setattr(lm_eval, "TaskManager", partial(TaskManager, include_defaults=False))
    assert main(["capability", "--config", config]) == 2
    assert "holds no selected direction; run `select` first" in capsys.readouterr().err
    for stage in ("cache", "select", "capability"):
        assert main([stage, "--config", config]) == 0
    out = capsys.readouterr().out
    assert "own_task, acc_norm" in out
    folder = tmp_path / "runs" / "tiny" / "capability"
    made = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert made.keys() == {"baseline", "ablation", "actadd"}
    assert made["baseline"]["samples"] == {"own_task": 4} and 0 <= made["baseline"]["tasks"]["own_task"]["acc"] <= 1
    with monkeypatch.context() as patch:
        patch.setattr(Weights, "engine", lambda *_: pytest.fail("the model was loaded"))
        assert main(["capability", "--config", config]) == 0
    assert "nothing to compute" in capsys.readouterr().out
    first, again = (logged_by_csv(folder.parent, "capability", version) for version in (0, 1))
    for name, scores in made.items():
        assert (
            first[f"own_task/acc/{name}"] == again[f"own_task/acc/{name}"] == [(0, scores["tasks"]["own_task"]["acc"])]
        )
    assert first["speed/questions_per_s"][0][1] > 0 and "speed/questions_per_s" not in again
    assert main(["capability", "--config", config, "--capability.limit", "2"]) == 0  # other scores, other files
    assert json.loads((folder / "ablation.json").read_text())["samples"] == {"own_task": 2}
    questions = tasks / "own.jsonl"
    questions.write_text("".join(questions.read_text().splitlines(keepends=True)[::-1]))
    assert main(["capability", "--config", config, "--capability.limit", "2"]) == 0  # other questions too
    assert "nothing to compute" not in capsys.readouterr().out


def test_a_kill_costs_the_scores_at_hand(tiny_llama_folder, tmp_path, capsys, monkeypatch):
    """Those under the first intervention are in the run, and not asked for again."""
    from refusal_lightning.stages.capability import inputs, scores

    data = write_data(tmp_path / "data", 6, 2)
    config = write_config(
        tmp_path, tiny_llama_folder, data, data={"n_train": 5, "n_val": 2}, capability={"tasks": ["own_task"]}
    )
    for stage in ("cache", "select"):
        assert main([stage, "--config", config]) == 0
    asked: list[str] = []

    def run_until_ablation(decoder, chat, intervention, *_):
        asked.append(intervention.name)
        if asked == ["baseline", "ablation"]:
            raise UserError("killed")
        return {"tasks": {"own_task": {"acc": 0.5}}, "samples": {"own_task": 4}}

    monkeypatch.setattr(inputs, "open_tasks", lambda _: None)
    monkeypatch.setattr(scores, "run_tasks", run_until_ablation)
    assert main(["capability", "--config", config]) == 2
    assert main(["capability", "--config", config]) == 0
    assert asked == ["baseline", "ablation", "ablation", "actadd"]
    assert "own_task, acc" in capsys.readouterr().out


def test_metrics_keep_their_filters():
    """The harness's names, of gsm8k and of a plain task."""
    given = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,strict-match": 0.25}
    plain = {"acc": 0.5, "acc_stderr": 0.1, "exact_match,strict-match": 0.25, "exact_match,strict-match_stderr": 0.2}
    assert _metrics({**given, "exact_match_stderr,strict-match": 0.2}) == plain


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--capability.tasks", "[own_tusk]"], "there is no task 'own_tusk'; did you mean own_task?"),
        (["--capability.include_path", "nowhere"], "capability.include_path: there is no folder 'nowhere'"),
        (["--trainer.devices", "2"], "capability runs in one process"),
        (["--capability.limit", "0"], "capability.limit is 0"),
    ],
)
def test_mistakes(tiny_llama_folder, tasks, tmp_path, capsys, arguments, says):
    settings = {"tasks": ["own_task"], "include_path": str(tasks)}
    config = write_config(tmp_path, tiny_llama_folder, tmp_path, capability=settings)
    assert main(["capability", "--config", config, *arguments]) == 2
    assert says in capsys.readouterr().err


CODE = {
    "a function": "process_docs: !function planted.touch",
    "a function anywhere": "process_docs: !function os.system",
    "a function in what it includes": "include: ../elsewhere.yaml",
    "a metric of its own": "metric_list: [{metric: ./planted.py, hf_evaluate: true}]",
    "a metric that the harness lacks": "metric_list: [{metric: ./planted.py}]",
    "a template": "doc_to_text: \"{{ cycler.__init__.__globals__.os.system('touch ran') }}\"",
}


@pytest.mark.parametrize("line", CODE.values(), ids=CODE)
def test_task_files_are_data(line, tiny_llama_folder, tasks, tmp_path, monkeypatch):
    """Nothing that a task file names is imported or run; the same with the template of a task."""
    (tasks / "planted.py").write_text("open('ran', 'w')\ndef touch(docs): return docs\n")
    (tmp_path / "planted.py").write_text((tasks / "planted.py").read_text())
    (tmp_path / "elsewhere.yaml").write_text("process_docs: !function planted.touch\n")
    text = (tasks / "own.yaml").read_text().splitlines()
    kept = [one for one in text if one.partition(":")[0] != line.partition(":")[0]]
    (tasks / "own.yaml").write_text("\n".join([*kept, line]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lm_eval, "TaskManager", partial(TaskManager, include_defaults=False))
    for program in ("Popen", "run", "check_output"):
        monkeypatch.setattr(subprocess, program, lambda *_, **__: pytest.fail("a program was started"))
    config = CapabilityConfig(tasks=["own_task"], include_path="tasks")
    with pytest.raises(UserError):
        manager = open_tasks(config)
        chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
        run_tasks(chat.fast_engine("cpu"), chat, BASELINE, config, manager)
    assert not (tmp_path / "ran").exists()


def test_without_the_harness(tiny_llama_folder, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["capability", "--config", write_config(tmp_path, tiny_llama_folder, tmp_path)]) == 2
    assert "pip install 'refusal-lightning[capability]'" in capsys.readouterr().err
