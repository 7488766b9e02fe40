"""analyze end to end: every number against a plain recomputation, without the model's weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_models import D_MODEL, N_LAYERS, N_POSITIONS

from refusal_lightning.cli import main
from refusal_lightning.config import DataConfig
from refusal_lightning.directions.analysis.bootstrap import bootstrap_weights
from refusal_lightning.directions.estimators.registry import ESTIMATORS
from refusal_lightning.inputs.drawing import drawn_sets
from refusal_lightning.models import load_chat_model
from refusal_lightning.stages.analyze.analysis import Analysis
from refusal_lightning.stages.analyze.inputs import AnalysisInputs
from refusal_lightning.stages.analyze.registry import ANALYSES as REGISTRY
from refusal_lightning.stages.analyze.registry import AnalysisSpec
from refusal_lightning.stages.analyze.stability import _stability_headline
from refusal_lightning.store import ActivationStore
from runs import write_config, write_data

PLACES = [(p, i) for p in range(-N_POSITIONS, 0) for i in range(N_LAYERS)]
ANALYSES = ("separability", "similarity", "stability", "projection")
CASES = {"n_train": 6, "n_val": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=8, val=5, test=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llama_folder, data) -> Path:
    """A folder with cache, select and analyze run; a further dataset is in the store."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(
        folder, tiny_llama_folder, data, data=CASES, cache={"datasets": ["harmful_test"]}, analyze={"bootstrap": 40}
    )
    for stage in ("cache", "select"):
        assert main([stage, "--config", config]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "refusal_lightning.models.weights.Weights.engine", lambda *a, **k: pytest.fail("weights were loaded")
        )
        assert main(["analyze", "--config", config]) == 0
    return folder


@pytest.fixture(scope="module")
def sets(tiny_llama_folder, data):
    """Hashes by set, drawn again."""
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    return {
        name: s.hashes
        for name, s in drawn_sets(chat, DataConfig(str(data), n_train=CASES["n_train"], n_val=CASES["n_val"])).items()
    }


@pytest.fixture(scope="module")
def acts(finished, sets):
    """``acts(name)``: all activations of a set, float64 [prompt, layer, position, d_model]."""
    store = _store(finished)
    return lambda name: store.read("resid_pre", store.rows(sets[name]), dtype=np.float64)


@pytest.fixture
def unselected(finished, tmp_path) -> list[str]:
    """Arguments of `analyze` on the same store, with a run's folder of its own where nothing is selected."""
    return ["analyze", "--config", _config(finished), "--runs.root", str(tmp_path / "runs")]


def _store(folder: Path) -> ActivationStore:
    (url,) = (folder / "store").glob("*.zarr")
    return ActivationStore.open(url)


def _table(folder: Path, name: str) -> list[dict[str, Any]]:
    """A table's rows; numbers as floats, NaN where a field is empty."""
    with (folder / "runs" / "tiny" / "analysis" / f"{name}.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    words = ("dataset", "split", "label", "measure")
    return [{k: v if k in words else float(v or "nan") for k, v in row.items()} for row in rows]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "runs" / "tiny" / "analysis").iterdir())}


def _column(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    """[position, layer] of a table with one row per candidate."""
    assert [(row["position"], row["layer"]) for row in rows] == PLACES
    return np.array([row[key] for row in rows]).reshape(N_POSITIONS, N_LAYERS)


def _difference(acts) -> np.ndarray:
    """[position, layer, d_model]: the mean difference of the training prompts, in plain words."""
    return (acts("harmful_train").mean(axis=0) - acts("harmless_train").mean(axis=0)).swapaxes(0, 1)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 1e-12 else np.nan


def _selected(folder: Path) -> tuple[int, int]:
    chosen = json.loads((folder / "runs" / "tiny" / "direction_metadata.json").read_text())
    return chosen["pos"], chosen["layer"]


def _fails(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return str(line)


def _config(finished: Path) -> str:
    return str(finished / "config.yaml")


def test_files(finished):
    names = {f"{name}.{end}" for name in ANALYSES for end in ("csv", "json", "png")}
    files = _files(finished)
    assert set(files) == names | {"similarity.npz"}
    assert all(content.startswith(b"\x89PNG") for name, content in files.items() if name.endswith(".png"))
    for name in ANALYSES:
        about = json.loads(files[f"{name}.json"])
        assert len(about["rows"]) == len(_table(finished, name))
        assert list(about["rows"][0]) == list(_table(finished, name)[0])
        assert about["made_from"]["prompts"]["harmful_val"]["kept"] == CASES["n_val"]
        assert (about["made_from"]["selected"]["pos"], about["made_from"]["selected"]["layer"]) == _selected(finished)
        assert about["headline"]


def test_separability_is_pairs_counted(finished, acts):
    """Directions of training prompts, pairs of validation prompts; the interval from resamples of those."""
    directions = _difference(acts)
    rng = np.random.default_rng(42)
    weights = [bootstrap_weights(CASES["n_val"], 40, rng) for _ in range(2)]
    rows = _table(finished, "separability")
    found = {key: _column(rows, key) for key in ("auroc", "low", "high")}
    for p, i in PLACES:
        if np.linalg.norm(directions[p, i]) < 1e-8:
            assert np.isnan(found["auroc"][p, i]) and i == 0
            continue
        high, low = (acts(name)[:, i, p] @ directions[p, i] for name in ("harmful_val", "harmless_val"))
        above = (high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])
        assert found["auroc"][p, i] == pytest.approx(above.mean())
        resampled = np.einsum("rh,rs,hs->r", *weights, above) / CASES["n_val"] ** 2
        for key, share in (("low", 0.025), ("high", 0.975)):
            assert found[key][p, i] == pytest.approx(np.quantile(resampled, share))
    assert np.isfinite(found["auroc"]).sum() == N_POSITIONS * (N_LAYERS - 1)


def test_similarity_is_cosines_by_hand(finished, acts):
    directions = _difference(acts)
    rows = _table(finished, "similarity")
    assert len(rows) == N_POSITIONS * N_LAYERS * (N_LAYERS - 1 + N_POSITIONS - 1) // 2
    for row in rows:
        p, i, q, j = (int(row[key]) for key in ("position", "layer", "other_position", "other_layer"))
        assert (p == q) != (i == j)
        assert row["cosine"] == pytest.approx(_cosine(directions[p, i], directions[q, j]), nan_ok=True)
    arrays = np.load(finished / "runs" / "tiny" / "analysis" / "similarity.npz")
    assert arrays["position"].tolist() == list(range(-N_POSITIONS, 0))
    assert arrays["layer"].tolist() == list(range(N_LAYERS))
    for a, (p, i) in enumerate(PLACES):
        for b, (q, j) in enumerate(PLACES):
            expected = _cosine(directions[p, i], directions[q, j])
            whole = arrays["cosine"].reshape(len(PLACES), len(PLACES))
            assert whole[a, b] == pytest.approx(expected, nan_ok=True)


def test_stability_is_estimating_again(finished, acts):
    """Resamples by drawing and averaging again; sizes 1, 2, 4, 6 and, of disjoint draws, 1, 2, 3."""
    p, i = _selected(finished)
    n = CASES["n_train"]
    harmful, harmless = (acts(name)[:, i, p] for name in ("harmful_train", "harmless_train"))
    full = harmful.mean(axis=0) - harmless.mean(axis=0)
    rows = _table(finished, "stability")
    assert {(row["position"], row["layer"]) for row in rows} == {(p, i)}
    rng = np.random.default_rng(42)
    weights = [bootstrap_weights(n, 40, rng) for _ in range(2)]
    cosines = [_cosine(w @ harmful / n - v @ harmless / n, full) for w, v in zip(*weights, strict=True)]
    (bootstrap,) = [row for row in rows if row["measure"] == "bootstrap"]
    expected = [np.mean(cosines), *np.quantile(cosines, [0.025, 0.975])]
    assert [bootstrap[key] for key in ("mean", "low", "high")] == pytest.approx(expected)
    sizes = {m: [row["n_harmful"] for row in rows if row["measure"] == m] for m in ("bootstrap", "subset", "split")}
    assert sizes == {"bootstrap": [6], "subset": [1, 2, 4, 6], "split": [1, 2, 3]}
    whole = next(row for row in rows if row["measure"] == "subset" and row["n_harmful"] == n)
    assert (whole["mean"], whole["low"]) == pytest.approx((1, 1))
    # The draws of one prompt of each kind are among these 36, and nearly all of them come up.
    one = next(row for row in rows if row["measure"] == "subset" and row["n_harmful"] == 1)
    pairs = [_cosine(a - b, full) for a in harmful for b in harmless]
    assert min(pairs) - 1e-9 <= one["low"] <= one["mean"] <= one["high"] <= max(pairs) + 1e-9
    assert one["mean"] == pytest.approx(np.mean(pairs), abs=4 * np.std(pairs) / np.sqrt(40))


@pytest.mark.parametrize(
    ("means", "says"),
    [
        ((0.5, 0.8, 1.0), "no number below all 20 reaches a mean cosine of 0.95"),
        ((0.5, 0.96, 1.0), "16 prompts of each kind (of 20 at most) reach a mean cosine of 0.95"),
    ],
)
def test_the_strict_figure_of_stability_comes_first(means, says):
    """All prompts agree with themselves by construction, which says nothing."""

    def row(measure, size, mean):
        about = {"position": -1, "layer": 2, "measure": measure, "n_harmful": size, "n_harmless": size}
        return {**about, "mean": mean, "low": mean - 0.1, "high": mean + 0.1}

    rows = [row("bootstrap", 20, 0.562), *(row("subset", n, m) for n, m in zip((8, 16, 20), means, strict=True))]
    selected: Any = SimpleNamespace(selected=(-1, 2))
    line = _stability_headline(selected, [*rows, row("split", 10, -0.353)])
    assert line.startswith(
        "two halves (10 prompts of each kind): cosine -0.353 [-0.453, -0.253]; bootstrap cosine 0.562"
    )
    assert says in line


def test_projection_is_by_hand_for_every_dataset(finished):
    store = _store(finished)
    direction = torch.load(finished / "runs" / "tiny" / "direction.pt", weights_only=True).numpy()
    assert direction.shape == (D_MODEL,)
    unit = direction / np.linalg.norm(direction)
    rows = _table(finished, "projection")
    groups = {(row["dataset"], row["split"], row["label"]): row["prompts"] for row in rows}
    assert groups == {
        **{(f"{kind}_train", "train", kind): 6 for kind in ("harmful", "harmless")},
        **{(f"{kind}_val", "val", kind): 4 for kind in ("harmful", "harmless")},
        ("harmful_test", "test", "harmful"): 3,
    }
    assert len(rows) == len(groups) * len(PLACES)
    for row in rows:
        hashes = store.prompts.hashes(dataset=row["dataset"])
        values = store.read("resid_pre", store.rows(hashes), dtype=np.float64)
        along = values[:, int(row["layer"]), int(row["position"])] @ unit
        assert row["mean"] == pytest.approx(along.mean(), abs=1e-9)
        assert row["sd"] == pytest.approx(along.std(ddof=1), abs=1e-9)
        quantiles = [row[key] for key in ("q05", "q25", "q50", "q75", "q95")]
        assert quantiles == pytest.approx(np.quantile(along, [0.05, 0.25, 0.5, 0.75, 0.95]), abs=1e-9)


def test_labels_and_sets_are_those_of_the_configuration(finished, tmp_path, data, tiny_llama_folder, capsys):
    """After a label was renamed and one training prompt moved to the other kind; the store knows the old ones."""
    rows = {
        (kind, split): json.loads((data / "splits" / f"{kind}_{split}.json").read_text())
        for kind in ("harmful", "harmless")
        for split in ("train", "val")
    }
    sets = {}
    moved = rows["harmful", "train"].pop(0)
    rows["harmless", "train"][0] = moved
    for (kind, split), of_set in rows.items():
        name = {"harmful": "rude", "harmless": "polite"}[kind] + f"_{split}"
        sets[name] = str(tmp_path / f"{name}.json")
        Path(sets[name]).write_text(json.dumps(of_set))
    labels = {"labels": ["rude", "polite"], "sets": sets, "n_train": 7, "n_val": 5}
    shutil.copytree(finished / "store", tmp_path / "store")
    config = write_config(
        tmp_path, tiny_llama_folder, data, data=labels, analyze={"bootstrap": 5, "analyses": ["projection"]}
    )
    assert main(["cache", "--config", config]) == 0
    assert "are in the store under the label or set that they were first cached with" in capsys.readouterr().out
    assert main(["select", "--config", config]) == 0
    assert main(["analyze", "--config", config]) == 0
    groups = {(r["dataset"], r["split"], r["label"]): r["prompts"] for r in _table(tmp_path, "projection")}
    assert groups == {
        (f"{label}_{split}", split, label): count
        for label in ("rude", "polite")
        for split, count in (("train", 7), ("val", 5))
    }
    assert "prompts of the store are in no set of this configuration" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes(finished, unselected, tmp_path, capsys):
    before = _files(finished)
    capsys.readouterr()
    assert main(["analyze", "--config", _config(finished)]) == 0
    assert _files(finished) == before
    said = capsys.readouterr().out
    for name in ANALYSES:
        assert str(finished / "runs" / "tiny" / "analysis" / f"{name}.csv") in said
    assert "best AUROC" in said and "a mean cosine of 0.95" in said and "two halves (3 prompts of each kind)" in said
    other = ["--analyze.seed", "7", "--analyze.analyses", '["separability", "similarity"]']
    assert main([*unselected, *other]) == 0
    assert _files(tmp_path)["separability.csv"] != before["separability.csv"]
    assert _files(tmp_path)["similarity.csv"] == before["similarity.csv"]


def test_a_store_of_all_positions_gives_the_same_tables(finished, tmp_path, tiny_llama_folder, data):
    """Other batches, so not the same bits; and a selection from the other store is still understood."""
    config = write_config(
        tmp_path,
        tiny_llama_folder,
        data,
        data=CASES,
        cache={"datasets": ["harmful_test"], "positions": "all", "batch_size": 5},
        analyze={"bootstrap": 40},
    )
    assert main(["cache", "--config", config]) == 0
    run, other = finished / "runs" / "tiny", tmp_path / "runs" / "tiny"
    for name in ("direction.pt", "direction_metadata.json", "generate_directions/mean_diffs.pt", "run.json"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((run / name).read_bytes())
    assert main(["analyze", "--config", config]) == 0
    for name in ANALYSES:
        ours, theirs = _table(finished, name), _table(tmp_path, name)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            numbers = {key for key, value in a.items() if isinstance(value, float)}
            assert {k: v for k, v in a.items() if k not in numbers} == {k: v for k, v in b.items() if k not in numbers}
            for key in numbers:
                assert a[key] == pytest.approx(b[key], abs=1e-4, nan_ok=True), (name, key)


def test_nothing_selected(finished, unselected, tmp_path, capsys, acts):
    """Projection says what it needs; stability is that of every candidate, with the same numbers."""
    line = _fails(capsys, *unselected)
    assert "holds no selected direction" in line and "run `select` first" in line
    assert not list(tmp_path.rglob("*.csv"))
    capsys.readouterr()
    without = json.dumps([name for name in ANALYSES if name != "projection"])
    assert main([*unselected, "--analyze.analyses", without]) == 0
    assert "nothing is selected" in capsys.readouterr().out
    assert _files(tmp_path)["separability.csv"] == _files(finished)["separability.csv"]
    rows = _table(tmp_path, "stability")
    places = [(row["position"], row["layer"]) for row in rows if row["measure"] == "bootstrap"]
    assert places == PLACES
    p, i = _selected(finished)
    assert [row for row in rows if (row["position"], row["layer"]) == (p, i)] == _table(finished, "stability")
    zero = np.linalg.norm(_difference(acts), axis=-1) < 1e-8
    undefined = {(row["position"], row["layer"]) for row in rows if np.isnan(row["mean"])}
    assert undefined == {(q - N_POSITIONS, j) for q, j in np.argwhere(zero).tolist()}


@pytest.fixture(scope="module")
def threshold(finished, sets) -> tuple[float, int]:
    """A refusal score that some harmful prompts of each set are above, and how many training prompts are."""
    store = _store(finished)
    model = yaml.safe_load(Path(_config(finished)).read_text())["model"]["name"]
    (token,) = load_chat_model(model, refusal_tokens=["I"]).refusal_ids

    def scores(name: str) -> np.ndarray:
        logits = store.read("next_token_logits", store.rows(sets[name]), dtype=np.float64)
        chance = np.exp(logits[:, token] - np.logaddexp.reduce(logits, axis=1))
        return np.asarray(np.log(chance / (1 - chance)))

    between = min(scores("harmful_train").max(), scores("harmful_val").max()) - 1e-4
    kept = int((scores("harmful_train") > between).sum())
    assert 0 < kept < CASES["n_train"]
    return between, kept


def test_the_filter_is_that_of_select(unselected, tmp_path, capsys, threshold):
    """Thresholds decide which prompts make the directions; an empty set is said in one line."""
    value, kept = threshold
    arguments = [*unselected, "--analyze.analyses", '["similarity", "stability"]', "--select.harmful_threshold"]
    assert main([*arguments, str(value)]) == 0
    about = json.loads(_files(tmp_path)["stability.json"])
    assert about["made_from"]["prompts"]["harmful_train"]["kept"] == kept
    assert about["rows"][0]["n_harmful"] == kept
    assert "all prompts filtered out" in _fails(capsys, *arguments, "1000")


def test_a_selection_of_other_candidates_is_refused(finished, capsys, threshold):
    """Directions of fewer prompts are not those that `select` chose from."""
    before = _files(finished)
    line = _fails(capsys, "analyze", "--config", _config(finished), "--select.harmful_threshold", str(threshold[0]))
    assert "run `select` with the same configuration first" in line
    assert _files(finished) == before


def test_the_first_estimator_makes_the_candidates(finished, unselected, tmp_path, capsys):
    """AUROC and cosines are of its directions; stability stays the mean difference's, and that is said."""
    arguments = ["--select.estimators", '["lda", "mean_difference"]']
    three = ["--analyze.analyses", '["separability", "similarity", "stability"]']
    capsys.readouterr()
    assert main([*unselected, *arguments, *three]) == 0
    assert "stability is that of the mean difference, whatever the estimator (lda)" in capsys.readouterr().out
    assert json.loads(_files(tmp_path)["separability.json"])["made_from"]["estimator"] == "lda"
    assert _files(tmp_path)["similarity.csv"] != _files(finished)["similarity.csv"]
    ours = [row for row in _table(tmp_path, "stability") if (row["position"], row["layer"]) == _selected(finished)]
    assert ours == _table(finished, "stability")


def test_an_analysis_is_added_by_one_entry(finished, unselected, tmp_path, capsys, monkeypatch):
    """It says what it needs, names no figure, and is refused by name where it is not there."""

    def count(inputs: AnalysisInputs) -> Analysis:
        rows = [{"set": name, "prompts": len(rows)} for name, rows in inputs.rows.items()]
        return Analysis(f"{len(rows)} sets", rows, note=f"of {inputs.estimator}")

    arguments = [*unselected, "--analyze.analyses", '["count"]']
    line = _fails(capsys, *arguments)
    assert f"analyze.analyses: there is no analysis 'count'; there are {', '.join(ANALYSES)}" in line
    monkeypatch.setattr(REGISTRY, "_entries", dict(REGISTRY))
    REGISTRY.register("count", AnalysisSpec(count))
    assert main(arguments) == 0
    assert set(_files(tmp_path)) == {"count.csv", "count.json"}
    said = capsys.readouterr().out
    assert "count: 4 sets" in said and "of mean_difference" in said
    monkeypatch.setattr(REGISTRY, "origin", lambda name: {"plugin": "own.py", "sha256": "12"})
    assert main(arguments) == 0
    assert json.loads(_files(tmp_path)["count.json"])["made_from"]["plugin"] == "own.py"
    assert "what is not known to be of this model" in capsys.readouterr().out  # of other code, so the first is aside
    assert "estimator_from" not in json.loads(_files(tmp_path)["count.json"])["made_from"]
    monkeypatch.setattr(ESTIMATORS, "origin", lambda name: {"plugin": f"{name}.py", "sha256": "34"})
    assert main(arguments) == 0
    made_from = json.loads(_files(tmp_path)["count.json"])["made_from"]
    assert made_from["estimator_from"] == {"plugin": "mean_difference.py", "sha256": "34"}
    monkeypatch.setattr(REGISTRY, "_entries", {**REGISTRY, "count": AnalysisSpec(count, needs_direction=True)})
    assert "no selected direction, which count is of" in _fails(capsys, *arguments)


def test_no_store(finished, capsys, tmp_path):
    line = _fails(capsys, "analyze", "--config", _config(finished), "--store.root", str(tmp_path / "none"))
    assert "there is no activation store" in line and "run `cache`" in line
    line = _fails(capsys, "analyze", "--config", _config(finished), "--data.n_val", "5")
    assert "prompts are not in" in line and "run `cache`" in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bootstrap", "0"),
        ("seed", "-1"),
        ("confidence", "1.0"),
        ("confidence", "0"),
        ("analyses", "[]"),
        ("analyses", '["stability", "stability"]'),
        ("analyses", '["separation"]'),
    ],
)
def test_bad_keys(capsys, key, value):
    assert f"analyze.{key}" in _fails(capsys, "analyze", f"--analyze.{key}", value)
