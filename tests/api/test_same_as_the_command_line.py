"""The API's results are those of the command line, bit for bit; without files; in an event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import refusal_lightning as rl
from refusal_lightning.models.weights import Weights
from refusal_lightning.report.figures.canvas import png
from refusal_lightning.runs.folder import RunFolder
from refusal_lightning.store.backend import memory
from runs import instructions

SELECT = ("mode", "harmful_threshold", "harmless_threshold", "kl_threshold", "induce_threshold", "batch_size")


def selecting(config):
    return {key: config["select"][key] for key in (*SELECT, "answer_kl_tokens")}


@pytest.fixture(scope="module")
def cached(tiny, tiny_run):
    return rl.cache(tiny, data=tiny_run.config["data"], batch_size=3, shard_mb=0.02)


@pytest.fixture(scope="module")
def result(tiny, tiny_run, cached):
    return rl.select(tiny, cached, **selecting(tiny_run.config))


def test_the_store_is_the_command_lines(cached, tiny_run):
    made = rl.open_run(tiny_run.run).store
    assert cached.result.computed == cached.result.prompts == 50
    assert cached.store.url == f"memory://{Path(made.url).name}"
    assert cached.store.prompts.hash.tolist() == made.prompts.hash.tolist()
    for name in ("resid_pre", "next_token_logits"):
        np.testing.assert_array_equal(cached.store.read(name), made.read(name))


def test_the_direction_and_the_scores_are_the_command_lines(result, tiny_run):
    run = RunFolder(tiny_run.run.parent, "tiny")
    written = torch.load(run.direction, weights_only=True)
    assert result.direction.vector.numpy().tobytes() == written.numpy().tobytes()
    at = json.loads(run.direction_metadata.read_text())
    assert (result.direction.position, result.direction.layer) == (at["pos"], at["layer"])
    rows = json.loads(run.evaluations.read_text())
    for row in rows:
        scores = result.scores.sel(position=row["position"], layer=row["layer"])
        assert [float(scores[k]) for k in ("bypass", "induce", "kl")] == [
            row[k] for k in ("refusal_score", "steering_score", "kl_div_score")
        ]
    assert result.hooks_proved and result.answer_kl


def test_a_run_is_the_result(result, tiny_run):
    run = rl.open_run(tiny_run.run)
    assert run.direction.vector.equal(result.direction.vector)
    for name in ("layer", "position", "n_layers", "model_name", "identity", "scores", "hook_point", "made_from"):
        assert getattr(run.direction, name) == getattr(result.direction, name), name
    assert run.scores.identical(result.scores)
    pd.testing.assert_frame_equal(run.candidates, result.candidates)
    assert run.candidates["selected"].sum() == 1
    for name, file in {"bypass": "ablation_scores", "induce": "actadd_scores", "kl": "kl_div_scores"}.items():
        written = (tiny_run.run / "select_direction" / f"{file}.png").read_bytes()
        assert png(run.figure(name)) == png(result.figure(name)) == written
    assert vars(run.figure("bypass"))["_repr_png_"]() == png(run.figure("bypass"))


def test_scores_say_what_they_are(result):
    assert dict(result.scores.sizes) == {"position": 4, "layer": 4}
    assert result.scores["kl"].attrs["units"] == "nats"
    assert result.scores.attrs["baseline_harmful"] == result.inputs.baseline["harmful"]
    assert "kl_threshold" not in result.scores.attrs and result.scores.attrs["prune_layers"] == 0.2
    assert result.scores["token"].values.tolist() == ["<|end|>", "\n", "<|assistant|>", "\n"]
    dropped = result.candidates[~result.candidates["passes"]]
    assert set(dropped["reason"]) == {"zero_norm", "pruned_layer"}


def test_evaluating_is_the_command_lines(tiny, tiny_run, result):
    made = rl.evaluate(tiny, result, data=tiny_run.config["data"], max_new_tokens=6, batch_size=2)
    run = rl.open_run(tiny_run.run)
    pd.testing.assert_frame_equal(made.rates, run.rates)
    pd.testing.assert_frame_equal(made.losses, run.losses)
    pd.testing.assert_frame_equal(made.differences, run.differences)
    assert len(made.rates) == 6 and len(made.losses) == 3
    for name in ("baseline", "ablation", "actadd"):
        pd.testing.assert_frame_equal(made.completions("harmful_test", name), run.completions("harmful_test", name))
    again = rl.evaluate(tiny, result.direction, data=tiny_run.config["data"], max_new_tokens=6, batch_size=2)
    assert again.n_computed == 0 < made.n_computed


def test_answers_are_those_of_generate(tiny, result):
    asked = [row["instruction"] for row in instructions("harmful", "test", 5)]
    made = rl.evaluate(tiny, result, harmful=asked, max_new_tokens=6, interventions=["baseline"])
    assert made.completions("harmful_test", "baseline")["response"].tolist() == tiny.generate(asked, 6)
    assert made.rates["dataset"].tolist() == ["harmful_test"] and len(made.losses) == 0


def test_analyses_are_the_command_lines(tiny, tiny_run, cached, result):
    made = rl.analyze(tiny, cached, result, bootstrap=20)
    run = rl.open_run(tiny_run.run)
    assert list(made.analyses) == ["separability", "similarity", "stability", "projection"]
    for name, found in made.analyses.items():
        pd.testing.assert_frame_equal(found.frame, run.analysis(name))
        assert png(run.figure(name)) == (tiny_run.run / "analysis" / f"{name}.png").read_bytes()
    without = rl.analyze(tiny, cached, bootstrap=5, seed=1, harmful_threshold=None, harmless_threshold=None)
    assert list(without.analyses) == ["separability", "similarity", "stability"]
    with pytest.raises(rl.UserError, match="projection is of a selected direction"):
        rl.analyze(tiny, cached, analyses=["projection"])


def lists():
    return (
        {
            split: [row["instruction"] for row in instructions(kind, split, n)]
            for split, n in (("train", 24), ("val", 6))
        }
        for kind in ("harmful", "harmless")
    )


def test_lists_give_what_files_give(tiny, cached, result, tiny_run):
    harmful, harmless = lists()
    made = rl.cache(tiny, harmful, harmless, n_train=20, n_val=5, batch_size=3, shard_mb=0.02)
    assert made.result.computed == 0
    assert {role: s.hashes for role, s in made.sets.items()} == {role: s.hashes for role, s in cached.sets.items()}
    again = rl.select(tiny, made, **selecting(tiny_run.config))
    assert again.direction.vector.equal(result.direction.vector)
    assert again.key == result.key


def test_one_list_is_divided_by_the_seed(tiny):
    harmful, harmless = ([f"{verb} {i}" for i in range(20)] for verb in ("Explain", "Write"))
    made = [rl.cache(tiny, harmful, harmless, seed=seed) for seed in (1, 1, 2)]
    sets = [{role: s.instructions for role, s in each.sets.items()} for each in made]
    assert sets[0] == sets[1] != sets[2]
    assert set(sets[0]["harmful_train"]) != set(sets[2]["harmful_train"])
    assert {role: len(texts) for role, texts in sets[0].items()} == {
        "harmful_train": 16,
        "harmless_train": 16,
        "harmful_val": 4,
        "harmless_val": 4,
    }
    assert sorted(sets[0]["harmful_train"] + sets[0]["harmful_val"]) == sorted(harmful)
    fixed = rl.cache(tiny, harmful, harmless, n_train=6, n_val=3)
    assert [len(s) for s in fixed.sets.values()] == [6, 6, 3, 3]
    with pytest.raises(rl.UserError, match="harmful has 20 instructions, and 18 are to train and 3"):
        rl.cache(tiny, harmful, harmless, n_train=18, n_val=3)


def test_a_folder_keeps_all_for_the_next_session(tiny, tmp_path, monkeypatch):
    harmful, harmless = lists()
    how: dict[str, Any] = dict.fromkeys(("harmful_threshold", "harmless_threshold", "kl_threshold", "induce_threshold"))
    first = rl.cache(tiny, harmful, harmless, n_train=6, n_val=3, store=tmp_path / "store")
    chosen = rl.select(tiny, first, **how)
    monkeypatch.setattr(Weights, "engine", lambda *_: pytest.fail("the model was loaded"))
    other = rl.load_model(tiny.name, alias="tiny", refusal_tokens=["I"], device="cpu")
    again = rl.cache(other, harmful, harmless, n_train=6, n_val=3, store=tmp_path / "store")
    assert (first.result.computed, again.result.computed) == (18, 0)
    assert rl.select(other, again, **how).direction.vector.equal(chosen.direction.vector)


def test_without_files(tiny, tmp_path, monkeypatch):
    """Nothing is written but in a temporary folder, which goes with the model."""
    monkeypatch.chdir(tmp_path)
    model = rl.load_model(tiny.name, device="cpu", progress_bar=False, refusal_tokens=["I"])
    harmful, harmless = lists()
    store = rl.cache(model, harmful, harmless, n_train=5, n_val=2)
    result = rl.select(model, store, harmful_threshold=None, harmless_threshold=None, position=-1, layer=1)
    rl.evaluate(model, result.direction, harmful["val"], harmless["val"], max_new_tokens=2)
    folder = model.journals
    assert list(tmp_path.iterdir()) == [] and folder.is_dir()
    del model, store, result
    import gc

    gc.collect()
    assert not folder.exists()


def test_memory_lasts_for_everybody_who_opens_it(cached):
    assert rl.ActivationStore.open(cached.store.url).prompts.hash.tolist() == cached.store.prompts.hash.tolist()
    assert any(key.startswith(cached.store.url) for key in memory._objects)


def test_in_a_running_event_loop(tiny, tiny_run):
    harmful, harmless = lists()

    async def cell():
        store = rl.cache(tiny, harmful, harmless, n_train=4, n_val=2, store="memory://loop")
        result = rl.select(tiny, store, harmful_threshold=None, harmless_threshold=None, position=-1, layer=1)
        made = rl.evaluate(tiny, result, harmful["val"][:2], harmless["val"][:2], max_new_tokens=2)
        return len(made.rates), rl.open_run(tiny_run.run).direction.layer

    assert asyncio.run(cell())[0] == 6


def test_messages_are_quiet_but_for_warnings(tiny, capfd):
    harmful, harmless = lists()
    rl.cache(tiny, harmful, harmless, n_train=5, n_val=3, store="memory://quiet")
    assert capfd.readouterr() == ("", "")
    rl.verbose()
    try:
        rl.cache(tiny, harmful, harmless, n_train=7, n_val=3, store="memory://quiet")
        assert "cache: " in capfd.readouterr().out
        rl.verbose()
        rl.cache(tiny, harmful, harmless, n_train=7, n_val=3, store="memory://quiet")
        assert capfd.readouterr().out.count("nothing to do") <= 1
    finally:
        rl.verbose(False)
    assert logging.getLogger("refusal_lightning").handlers == []


def test_what_acts_on_the_model_is_not_measured_by_mistake(tiny, cached, result):
    from refusal_lightning.interventions import KeyedIntervention, ablation

    with tiny.under(KeyedIntervention(ablation(result.direction.vector))):
        for call in (
            lambda: rl.cache(tiny, ["a"], ["b"]),
            lambda: rl.select(tiny, cached),
            lambda: rl.evaluate(tiny, result, ["a"], ["b"]),
        ):
            with pytest.raises(rl.UserError, match="ablation acts on it; call it outside the `with` block"):
                call()


def test_no_candidate(tiny, cached):
    settings: dict[str, Any] = {"harmful_threshold": None, "harmless_threshold": None, "induce_threshold": 1e6}
    nothing = rl.select(tiny, cached, **settings)
    with pytest.raises(rl.UserError, match="no direction selected"):
        _ = nothing.direction
    assert not nothing.candidates["passes"].any()
    with pytest.raises(rl.UserError, match="no direction selected"):
        rl.evaluate(tiny, nothing, ["a"], ["b"])


@pytest.mark.parametrize(
    "given, said",
    [
        ({"harmful": ["a"]}, "give harmful and harmless"),
        ({"harmful": "abc", "harmless": ["a", "b"]}, "harmful is a list of instructions; this is of type str"),
        ({"harmful": ["a"], "harmless": ["b", "c"]}, "harmful has 1 instructions; give at least 2"),
        (
            {"harmful": {"test": ["a"]}, "harmless": ["b"]},
            'harmful has the sets test; give a list, or "train" and "val"',
        ),
        ({"harmful": ["a", 3], "harmless": ["b", "c"]}, "harmful"),
        ({"data": {}, "n_train": 3}, "n_train beside data"),
        ({"dat": {}}, "there is no setting 'dat'"),
        ({"hook_point": ["resid_mid"]}, "did you mean hook_points"),
        ({"data": {"n_trian": 3}}, "data has no key 'n_trian'; did you mean n_train"),
    ],
)
def test_mistakes(tiny, given, said):
    with pytest.raises(rl.UserError) as error:
        rl.cache(tiny, **given)
    assert said in str(error.value)


def test_mistakes_in_evaluating(tiny, result):
    with pytest.raises(rl.UserError, match="there is nothing to answer"):
        rl.evaluate(tiny, result.direction)
    with pytest.raises(rl.UserError, match="there is no judge 'nobody'"):
        rl.evaluate(tiny, result, ["a"], ["b"], judges=["nobody"])
    with pytest.raises(rl.UserError, match="there is no setting 'max_tokens'; did you mean"):
        rl.evaluate(tiny, result, ["a"], ["b"], max_tokens=3)


def test_mistakes_in_a_run(tiny_run, tmp_path):
    with pytest.raises(rl.UserError, match="holds no run"):
        rl.open_run(tmp_path)
    run = rl.open_run(tiny_run.run)
    assert "select, evaluate, analyze" in repr(run)
    with pytest.raises(rl.UserError, match="there is no figure 'nothing'; there are bypass, induce, kl, separability"):
        run.figure("nothing")
    with pytest.raises(rl.UserError, match="has no set 'x'; it has harmful_test, harmless_test"):
        run.completions("x", "baseline")
    with pytest.raises(rl.UserError, match="run `analyze` first"):
        run.analysis("nothing")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(rl.UserError, match="no results of `evaluate`; run it first"):
        _ = rl.open_run(tmp_path).rates


def test_a_package_that_is_not_there_is_named(result, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(rl.UserError, match=r"pip install 'refusal-lightning\[notebook\]' \(xarray\)"):
        _ = result.scores
