"""The three stages end to end, on a tiny random model: artifacts, continuation, and mistakes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import N_LAYERS, N_POSITIONS

from refusal_lightning.cli import main
from refusal_lightning.data import draw_instructions, load_dataset_split
from refusal_lightning.interventions import ablation, intervene
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.tokens import prompt_hash
from refusal_lightning.models.weights import Weights
from refusal_lightning.store import ActivationStore, verify
from runs import write_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up")


def _artifacts(folder: Path) -> dict[str, bytes]:
    """All result files by name: journals and timings, which no two runs share, apart."""
    found = {}
    for path in sorted((folder / "runs").rglob("*")):
        if path.is_file() and ".journal" not in path.parts:
            content = path.read_bytes()
            if path.name == "run.json":
                record = json.loads(content)
                del record["timings"]
                record.get("files", {}).pop("report.html", None)  # which names the folder of the store
                content = json.dumps(record).encode()
            found[str(path.relative_to(folder))] = content.replace(str(folder).encode(), b"FOLDER")
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llama_folder, data) -> Path:
    """A folder with an undisturbed run of all three stages."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, tiny_llama_folder, data)
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    return folder


def test_artifacts(finished):
    run = finished / "runs" / "tiny"
    directions = torch.load(run / "generate_directions" / "mean_diffs.pt", weights_only=True)
    assert directions.shape == (N_POSITIONS, N_LAYERS, 32)
    assert directions.dtype == torch.float64
    chosen = json.loads((run / "direction_metadata.json").read_text())
    direction = torch.load(run / "direction.pt", weights_only=True)
    assert torch.equal(direction, directions[chosen["pos"], chosen["layer"]])
    assert (run / "direction.pt").stat().st_size < 3000  # its own storage, not a view of all candidates'
    rows = json.loads((run / "select_direction" / "direction_evaluations.json").read_text())
    assert [(r["position"], r["layer"]) for r in rows] == [
        (p, layer) for p in range(-N_POSITIONS, 0) for layer in range(N_LAYERS)
    ]
    assert all(set(r) == {"position", "layer", "refusal_score", "steering_score", "kl_div_score"} for r in rows)
    filtered = json.loads((run / "select_direction" / "direction_evaluations_filtered.json").read_text())
    assert filtered[0]["refusal_score"] == min(r["refusal_score"] for r in filtered)
    assert (filtered[0]["position"], filtered[0]["layer"]) == (chosen["pos"], chosen["layer"])
    assert {r["layer"] for r in filtered} == {1, 2}  # 0 is zero at every position, 3 is pruned
    for name in ("ablation_scores", "actadd_scores", "kl_div_scores"):
        assert (run / "select_direction" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for dataset in ("harmful_test", "harmless_test"):
        for intervention in ("baseline", "ablation", "actadd"):
            rows = json.loads((run / "completions" / f"{dataset}_{intervention}_completions.json").read_text())
            assert len(rows) == 5
            assert all(set(r) == {"category", "prompt", "response"} for r in rows)
            verdicts = json.loads((run / "completions" / f"{dataset}_{intervention}_evaluations.json").read_text())
            assert {"substring_matching_success_rate", "substring_matching_per_category"} <= set(verdicts)
            assert all(r["is_jailbreak_substring_matching"] in (0, 1) for r in verdicts["completions"])
    for intervention in ("baseline", "ablation", "actadd"):
        (entry,) = json.loads((run / "loss_evals" / f"{intervention}_loss_eval.json").read_text()).values()
        assert set(entry) == {"ce_loss", "perplexity", "n_tokens", "loss_mask"}
        assert entry["perplexity"] == pytest.approx(np.exp(entry["ce_loss"]))
    record = json.loads((run / "run.json").read_text())
    assert {"select", "evaluate", "versions", "timings"} <= set(record)


def test_mean_differences_by_hand(finished, tiny_llama_folder, data):
    """Against a plain Hugging Face forward of every prompt alone."""
    from transformers import AutoModelForCausalLM

    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder, dtype=torch.float32)
    draw = draw_instructions(data, 20, 5, 42)

    def mean(instructions):
        total = np.zeros((N_POSITIONS, N_LAYERS, 32))
        for instruction in instructions:
            ids = torch.tensor([chat.encode(instruction)])
            with torch.inference_mode():
                hidden = model(ids, output_hidden_states=True).hidden_states
            total += torch.stack(hidden[:N_LAYERS])[:, 0, -N_POSITIONS:].transpose(0, 1).double().numpy()
        return total / len(instructions)

    expected = mean(draw.harmful_train) - mean(draw.harmless_train)
    ours = torch.load(finished / "runs" / "tiny" / "generate_directions" / "mean_diffs.pt", weights_only=True).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert (ours[:, 0] == 0).all()


def test_again_computes_nothing(finished, tiny_llama_folder, data, monkeypatch, capsys):
    before = _artifacts(finished)
    monkeypatch.setattr(Weights, "engine", _no_model)
    config = str(finished / "config.yaml")
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    out = capsys.readouterr().out
    assert "cache: nothing to do" in out
    assert "select: nothing to compute" in out
    assert "evaluate: nothing to compute" in out
    assert _artifacts(finished) == before


def _no_model(self, device):
    raise AssertionError("the model was loaded")


def test_other_thresholds_need_no_model(finished, tiny_llama_folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(Weights, "engine", _no_model)
    config = str(finished / "config.yaml")
    before = (finished / "runs" / "tiny" / "direction_metadata.json").read_text()
    arguments = ["select", "--config", config, "--runs.root", str(tmp_path), "--select.mode", "staged"]
    assert main([*arguments, "--select.prune_layers", "0.5"]) == 0
    assert json.loads((tmp_path / "tiny" / "direction_metadata.json").read_text())["layer"] == 1
    assert (finished / "runs" / "tiny" / "direction_metadata.json").read_text() == before


def test_staged_selects_the_same(finished, tiny_llama_folder, data, tmp_path):
    """With thresholds in the middle of the scores, computed afresh."""
    rows = json.loads((finished / "runs" / "tiny" / "select_direction" / "direction_evaluations.json").read_text())
    scored = [r for r in rows if r["layer"] in (1, 2)]
    kl = float(np.quantile([r["kl_div_score"] for r in scored], 0.7))
    induce = float(np.quantile([r["steering_score"] for r in scored], 0.3))
    chosen = {}
    for mode in ("exhaustive", "staged"):
        folder = tmp_path / mode
        folder.mkdir()
        config = write_config(
            folder, tiny_llama_folder, data, select={"mode": mode, "kl_threshold": kl, "induce_threshold": induce}
        )
        assert main(["cache", "--config", config]) == 0
        assert main(["select", "--config", config]) == 0
        chosen[mode] = json.loads((folder / "runs" / "tiny" / "direction_metadata.json").read_text())
        table = json.loads((folder / "runs" / "tiny" / "select_direction" / "direction_evaluations.json").read_text())
        computed = sum(r["refusal_score"] is not None for r in table)
        assert computed == len(rows) if mode == "exhaustive" else computed < len(scored)
    assert chosen["staged"] == chosen["exhaustive"]


def test_sampled_answers(finished, tiny_llama_folder, data, tmp_path):
    """Drawn anew for each seed, the same for the same, whatever the batch; near temperature zero, the greedy ones."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    completions = tmp_path / "runs" / "tiny" / "completions"

    def responses(batch_size: int, **sampling: float) -> list[str]:
        settings = {"max_new_tokens": 6, "batch_size": batch_size, "harmless": [], "losses": [], "sampling": sampling}
        evaluate = {k: v for k, v in settings.items() if v != {}}
        config = write_config(
            tmp_path, tiny_llama_folder, data, store={"root": str(finished / "store")}, evaluate=evaluate
        )
        assert main(["evaluate", "--config", config]) == 0
        files = [completions / f"harmful_test_{name}_completions.json" for name in ("baseline", "ablation", "actadd")]
        return [row["response"] for file in files for row in json.loads(file.read_text())]

    greedy = responses(2)
    assert greedy == responses(3, temperature=1e-4)
    drawn = responses(3, seed=1)
    assert drawn != greedy
    assert responses(3, seed=2) != drawn
    for journal in tmp_path.rglob(".journal"):
        shutil.rmtree(journal)
    assert responses(5, seed=1) == drawn


def test_several_estimators(finished, tiny_llama_folder, data, tmp_path):
    """Each is a selection of its own, beside the first one's; the first one's files are those it has alone."""
    names = ["mean_difference", "principal_component", "logistic_probe", "lda", "unit_mean_difference"]
    names.append("category_means")
    config = write_config(tmp_path, tiny_llama_folder, data, select={"estimators": names, "mode": "staged"})
    assert main(["cache", "--config", config]) == 0
    assert main(["select", "--config", config]) == 0
    run = tmp_path / "runs" / "tiny"
    alone = finished / "runs" / "tiny"
    for file in ("direction_metadata.json", "generate_directions/mean_diffs.pt", "direction.pt"):
        assert (run / file).read_bytes() == (alone / file).read_bytes()
    (url,) = (tmp_path / "store").glob("*.zarr")
    store, prompts = ActivationStore.open(url), ActivationStore.open(url).prompts
    harmful, harmless = (
        store.read("resid_pre", store.rows(prompts.hashes(label=label, split="train")), layers=[2])[:, 0, -1]
        for label in ("harmful", "harmless")
    )
    difference = harmful.mean(0, dtype=np.float64) - harmless.mean(0, dtype=np.float64)
    for name in names[1:]:
        folder = run / "estimators" / name
        candidates = torch.load(folder / "generate_directions" / "mean_diffs.pt", weights_only=True)
        chosen = json.loads((folder / "direction_metadata.json").read_text())
        direction = torch.load(folder / "direction.pt", weights_only=True)
        assert torch.equal(direction, candidates[chosen["pos"], chosen["layer"]])
        ours = candidates[-1, 2].numpy()
        assert ours @ difference > 0
        norm = 1.0 if name == "unit_mean_difference" else np.linalg.norm(difference)
        if name != "category_means":
            assert np.linalg.norm(ours) == pytest.approx(norm)
    of_category = torch.load(run / "estimators/category_means/generate_directions/mean_diffs.pt", weights_only=True)
    categories = {r["instruction"]: r["category"] for r in load_dataset_split("harmful", "train", root=data)}
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    drawn = draw_instructions(data, 20, 5, 42).sets()["harmful_train"]
    rows = {c: store.rows([prompt_hash(chat.encode(i)) for i in drawn if categories[i] == c]) for c in ("c0", "c1")}
    means = [store.read("resid_pre", r, layers=[2])[:, 0, -1].mean(0, dtype=np.float64) for r in rows.values()]
    expected = (means[0] + means[1]) / 2 - harmless.mean(0, dtype=np.float64)
    np.testing.assert_allclose(of_category[-1, 2].numpy(), expected, rtol=1e-9)
    assert not (run / "estimators" / "mean_difference").exists()


def test_how_sure_the_choice_is(finished):
    """The file says what the stored scores of each prompt say when the prompts are drawn again."""
    run = finished / "runs" / "tiny"
    told = json.loads((run / "select_direction" / "uncertainty.json").read_text())
    filtered = json.loads((run / "select_direction" / "direction_evaluations_filtered.json").read_text())
    assert [t["refusal_score"] for t in told["top"]] == [f["refusal_score"] for f in filtered[:5]]
    assert told["margin"] == pytest.approx(filtered[1]["refusal_score"] - filtered[0]["refusal_score"])
    assert sum(w["wins"] for w in told["winners"]) + told["none_passes"] == pytest.approx(1)
    assert told["undecided"] == 0
    for top in told["top"]:
        low, high = top["refusal_score_interval"]
        assert low <= top["refusal_score"] <= high


def test_second_opinions(finished, tiny_llama_folder, data, tmp_path, capsys, monkeypatch):
    """COSMIC's cosines beside each choice; KL over the answer's tokens where asked for, by hand, and kept."""
    cosmic = json.loads((finished / "runs" / "tiny" / "select_direction" / "cosmic.json").read_text())
    assert len(cosmic["candidates"]) == N_LAYERS * N_POSITIONS
    assert cosmic["rank_of_selected"] >= 0 and len(cosmic["best_of_survivors"]) == 2
    config = write_config(tmp_path, tiny_llama_folder, data, select={"answer_kl_tokens": 4, "mode": "staged"})
    assert main(["cache", "--config", config]) == 0
    assert main(["select", "--config", config]) == 0
    run = tmp_path / "runs" / "tiny"
    told = json.loads((run / "select_direction" / "answer_kl.json").read_text())
    filtered = json.loads((run / "select_direction" / "direction_evaluations_filtered.json").read_text())
    assert [(t["position"], t["layer"]) for t in told] == [(f["position"], f["layer"]) for f in filtered[:5]]
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    engine = chat.engine("cpu")
    directions = torch.load(run / "generate_directions" / "mean_diffs.pt", weights_only=True)
    kl = []
    with torch.inference_mode():
        for instruction in draw_instructions(data, 20, 5, 42).sets()["harmless_val"]:
            ids = chat.encode(instruction)
            terms: list[float] = []
            for _ in range(4):
                before = engine(torch.tensor([ids]))[0, -1].double().log_softmax(-1)
                with intervene(engine, ablation(directions[told[0]["position"], told[0]["layer"]])):
                    after = engine(torch.tensor([ids]))[0, -1].double().log_softmax(-1)
                chosen = int(before.argmax())
                if not (chosen in chat.stop_ids and terms):
                    terms.append(float((before.exp() * (before - after)).sum()))
                if chosen in chat.stop_ids:
                    break
                ids = [*ids, chosen]
            kl.append(np.mean(terms))
    assert told[0]["kl"] == pytest.approx(np.mean(kl), rel=1e-3, abs=1e-6)
    monkeypatch.setattr(
        "refusal_lightning.models.weights.Weights.engine", lambda *args: pytest.fail("the model was loaded")
    )
    before = (run / "select_direction" / "answer_kl.json").read_bytes()
    assert main(["select", "--config", config]) == 0
    assert (run / "select_direction" / "answer_kl.json").read_bytes() == before


# Run in a process of its own: the stage of the command line, killed by SIGKILL at the nth durable step, in its middle.
KILLED = """
import os, signal, sys
from refusal_lightning.cli import main
from refusal_lightning.store import ActivationStore
from refusal_lightning.distributed.journal_writer import JournalWriter
import torch
torch.set_num_threads(1)
left = int(sys.argv[1])

def kill_midway(owner, name, half_of):
    whole = getattr(owner, name)
    def step(self, *args, **kwargs):
        global left
        left -= 1
        if left:
            return whole(self, *args, **kwargs)
        half_of(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, step)

def half_a_line(self, *args, **kwargs):
    if self._file is not None:
        self._file.write('{"kind": "bypass", "posi')
        self._file.flush()

kill_midway(ActivationStore, "write_shard", lambda self, *args: None)
kill_midway(JournalWriter, "write_on_batch_end", half_a_line)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("stage", "steps"), [("cache", (1, 4)), ("select", (2, 4)), ("evaluate", (2, 9))], ids=lambda v: str(v)
)
def test_killed_and_started_again(finished, tiny_llama_folder, data, tmp_path, stage, steps):
    """SIGKILL twice in the middle of a stage; the next start ends with the same files."""
    config = write_config(tmp_path, tiny_llama_folder, data)
    for earlier in ("cache", "select", "evaluate"):
        if earlier == stage:
            for step in steps:
                command = [sys.executable, "-c", KILLED, str(step), stage, "--config", config]
                done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
                assert done.returncode == -signal.SIGKILL, done.stderr
        assert main([earlier, "--config", config]) == 0
    assert _artifacts(tmp_path) == _artifacts(finished)
    assert _arrays(tmp_path) == _arrays(finished)


@pytest.mark.parametrize("steps", [(3, 1), pytest.param((1, 2, 2), marks=pytest.mark.slow)], ids=str)
def test_staged_selection_killed_and_started_again(finished, tiny_llama_folder, data, tmp_path, steps):
    """Which candidates share a pass, and which are dropped early, does not depend on where a run was stopped."""
    rows = json.loads((finished / "runs" / "tiny" / "select_direction" / "direction_evaluations.json").read_text())
    scored = [r for r in rows if r["layer"] in (1, 2)]
    rules = {
        "mode": "staged",
        "kl_threshold": float(np.quantile([r["kl_div_score"] for r in scored], 0.8)),
        "induce_threshold": float(np.quantile([r["steering_score"] for r in scored], 0.2)),
        "batch_size": 2,
    }
    results = []
    for name, kills in (("undisturbed", ()), ("killed", steps)):
        folder = tmp_path / name
        folder.mkdir()
        config = write_config(folder, tiny_llama_folder, data, select=rules)
        assert main(["cache", "--config", config]) == 0
        for step in kills:
            command = [sys.executable, "-c", KILLED, str(step), "select", "--config", config]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
            assert done.returncode == -signal.SIGKILL, done.stderr
        assert main(["select", "--config", config]) == 0
        (store,) = (folder / "store").glob("*.zarr")
        table = ActivationStore.open(store)
        (key,) = table.results()
        arrays = (table.load_result(key) or ({}, {}))[0]
        assert not arrays["bypass_seen"].all()
        results.append((_artifacts(folder), {name: array.tobytes() for name, array in arrays.items()}))
    assert results[0] == results[1]


def test_a_smaller_run_after_a_killed_one(tiny_llama_folder, data, tmp_path, capsys):
    """Its prompts share shards with prompts that it does not know: they get shards of their own."""
    config = write_config(tmp_path, tiny_llama_folder, data)
    command = [sys.executable, "-c", KILLED, "3", "cache", "--config", config]
    assert subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    for arguments in (["--data.n_train", "9"], [], ["--data.n_train", "9"]):
        assert main(["cache", "--config", config, *arguments]) == 0
    assert "nothing to do" in capsys.readouterr().out
    (url,) = (tmp_path / "store").glob("*.zarr")
    assert verify(url) == [] and ActivationStore.open(url).prompts.complete.all()


def _arrays(folder: Path) -> dict[str, bytes]:
    """Every file of the store's activations and logits."""
    (store,) = (folder / "store").glob("*.zarr")
    names = ("resid_pre", "next_token_logits")
    return {
        str(p.relative_to(store)): p.read_bytes() for name in names for p in (store / name).rglob("*") if p.is_file()
    }


def _fails(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_stages_out_of_order(tmp_path, tiny_llama_folder, data, capsys):
    config = write_config(tmp_path, tiny_llama_folder, data)
    assert "run `cache`" in _fails(capsys, "select", "--config", config)
    assert "run `select` first" in _fails(capsys, "evaluate", "--config", config)


def test_mistakes_in_one_line(tmp_path, tiny_llama_folder, data, capsys):
    config = write_config(tmp_path, tiny_llama_folder, data)
    cases = {
        ("--model.name", str(tmp_path / "no-model")): "there is no folder",
        ("--model.family", "lama"): "model.family 'lama' is not known",
        ("--data.root", str(tmp_path / "no-data")): "does not exist",
        ("--data.n_train", "25"): "has 24 rows",
        ("--cache.batch_size", "-1"): "cache.batch_size is -1",
        ("--cache.datasets", "[nothing]"): "dataset 'nothing'",
        ("--trainer.extra", "{max_tokens: 3}"): "trainer.extra.max_tokens is not taken",
    }
    for arguments, message in cases.items():
        assert message in _fails(capsys, "cache", "--config", config, *arguments)


def test_unwritable_folders(tmp_path, tiny_llama_folder, data, capsys, finished):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    config = write_config(tmp_path, tiny_llama_folder, data)
    message = _fails(capsys, "cache", "--config", config, "--store.root", str(blocked / "store"))
    assert "is not a folder; choose another place for the store" in message
    config = str(finished / "config.yaml")
    assert "runs.root: cannot write" in _fails(capsys, "select", "--config", config, "--runs.root", str(blocked))


def test_all_prompts_filtered_out(finished, capsys):
    message = _fails(capsys, "select", "--config", str(finished / "config.yaml"), "--select.harmful_threshold", "1000")
    assert "all prompts filtered out: none of 20 harmful_train prompts" in message
    assert (finished / "runs" / "tiny" / "direction.pt").is_file()  # nothing that was there is lost


def test_all_candidates_filtered_out(finished, tmp_path, capsys):
    arguments = ["--runs.root", str(tmp_path), "--select.kl_threshold", "-1"]
    message = _fails(capsys, "select", "--config", str(finished / "config.yaml"), *arguments)
    assert "no direction selected: 0 of 16 candidates pass the filter" in message
    assert "8 KL score too high" in message
    run = tmp_path / "tiny"
    assert len(json.loads((run / "select_direction" / "direction_evaluations.json").read_text())) == 16
    assert "one change: kl_threshold" in (run / "select_direction" / "filter_report.txt").read_text()
    assert not (run / "direction.pt").exists()


@pytest.mark.parametrize("rule", ["kl_threshold", "induce_threshold"])
def test_staged_scoring_says_which_threshold_would_do(finished, tiny_llama_folder, data, tmp_path, capsys, rule):
    """The same as the scores of every candidate say, without any bypass score; and it is true."""
    rows = json.loads((finished / "runs" / "tiny" / "select_direction" / "direction_evaluations.json").read_text())
    scored = [r for r in rows if r["layer"] in (1, 2)]
    kl, induce = [r["kl_div_score"] for r in scored], [r["steering_score"] for r in scored]
    # All candidates fail the one rule by far, so that scoring stops early; or the other is the one to move.
    chosen = {"kl_threshold": min(kl) / 1e3} if rule == "kl_threshold" else {"induce_threshold": max(induce) + 5}
    best = min(kl) if rule == "kl_threshold" else max(induce)
    config = write_config(tmp_path, tiny_llama_folder, data, select={"mode": "staged", **chosen})
    assert main(["cache", "--config", config]) == 0
    message = _fails(capsys, "select", "--config", config)
    value = float(message.partition(f"; {rule}: ")[2].partition(" would let position")[0])
    assert value == pytest.approx(best, rel=0.01)
    report = (tmp_path / "runs" / "tiny" / "select_direction" / "filter_report.txt").read_text()
    assert "bypass not computed" in report and "NaN" not in report and "nan" not in report
    assert main(["select", "--config", config, f"--select.{rule}", str(value)]) == 0
    assert "1 of 16 candidates passed" in capsys.readouterr().out


def test_a_direction_of_another_model_is_refused(finished, tiny_folder, data, tmp_path, capsys):
    config = str(finished / "config.yaml")
    message = _fails(capsys, "evaluate", "--config", config, "--model.name", str(tiny_folder("qwen2")))
    assert "holds the run of another model or template" in message


def test_the_report_escapes_what_it_shows(finished, tmp_path, capsys):
    text = (finished / "runs" / "tiny" / "report.html").read_text()
    assert "<script" not in text
    assert "harmful_test" in text
    # No instruction and no answer is in it.
    for path in (finished / "runs" / "tiny" / "completions").glob("*_completions.json"):
        for row in json.loads(path.read_text()):
            assert row["prompt"] not in text
