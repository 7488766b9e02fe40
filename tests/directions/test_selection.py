import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.selection.candidates import SCORES, CandidateScores, from_rows, rows
from refusal_lightning.directions.selection.choose import NoCandidateError, select
from refusal_lightning.directions.selection.filters import Thresholds, dropped_by
from refusal_lightning.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[2].parent / "shared"
NONE = Thresholds(kl=None, induce=None, prune_layers=None)


def load(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def test_small_table() -> None:
    selection = select(from_rows(load("score_table.json")))
    assert (selection.position, selection.layer) == (-2, 3)  # ties with (-1, 3), which comes later
    assert [candidate.row() for candidate in selection.survivors] == load("score_table_filtered.json")
    assert selection.margin == 0.0


def test_rules_can_be_switched_off() -> None:
    scores = from_rows(load("score_table.json"))
    best = {
        (None, 0.0, 0.2): (-1, 2),
        (0.1, None, 0.2): (-1, 1),
        (0.1, 0.0, None): (-2, 4),
        (0.05, 0.0, 0.0): (-2, 4),
    }
    for values, expected in best.items():
        selection = select(scores, Thresholds(*values))
        assert (selection.position, selection.layer) == expected


def test_nan_in_any_score_drops_even_with_all_rules_off() -> None:
    clean = CandidateScores(*np.ones((3, 1, 4)))
    for layer, kind in enumerate(SCORES):
        clean[kind][0, layer] = np.nan
    assert [(c.position, c.layer) for c in select(clean, NONE).survivors] == [(-1, 3)]


def test_thresholds_themselves_pass_and_comparison_is_in_the_given_precision() -> None:
    at = CandidateScores(np.zeros((1, 2)), np.zeros((1, 2)), np.full((1, 2), 0.1))
    assert select(at, Thresholds(prune_layers=None)).layer == 0
    # float32(0.1) is above 0.1 as a float64, not as a float32
    single = CandidateScores(*(getattr(at, n).astype(np.float32) for n in at.__dataclass_fields__))
    assert select(single, Thresholds(prune_layers=None)).layer == 0
    with pytest.raises(NoCandidateError):
        widened = CandidateScores(*(getattr(single, n).astype(float) for n in at.__dataclass_fields__))
        select(widened, Thresholds(prune_layers=None))


@pytest.mark.parametrize(("n_layers", "kept"), [(18, 14), (24, 19), (32, 25), (30, 24), (10, 8), (1, 0)])
def test_prune_boundary(n_layers: int, kept: int) -> None:
    assert Thresholds().first_pruned_layer(n_layers) == kept
    assert Thresholds(prune_layers=None).first_pruned_layer(n_layers) == n_layers


def test_zero_norm_is_never_selected() -> None:
    # layer 0's bypass score (the baseline's) is the lowest and every rule is off
    scores = CandidateScores(np.array([[-9.0, -1.0, 2.0]]), np.ones((1, 3)), np.array([[0.0, 0.0, 0.5]]))
    assert select(scores, NONE).layer == 1
    assert select(scores, NONE, norms=np.array([[0.0, 3.0, 3.0]])).layer == 1
    assert select(scores, NONE, norms=np.array([[1e-6, 3.0, 3.0]])).layer == 0
    assert select(scores, NONE, norms=np.array([[1e-14, 3.0, 3.0]])).layer == 1
    assert select(scores, NONE, norms=np.array([[0.0, 0.0, 3.0]])).layer == 2


@pytest.mark.parametrize(
    "values", [{"kl": math.nan}, {"induce": math.nan}, {"prune_layers": 1.0}, {"prune_layers": -0.1}]
)
def test_bad_thresholds_name_their_key(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        Thresholds(**values)


def test_nothing_left_raises_with_the_report() -> None:
    with pytest.raises(NoCandidateError, match=r"0 of 10 candidates.*kl_threshold: 0\.0\d") as caught:
        select(from_rows(load("score_table.json")), Thresholds(kl=0.01))
    assert caught.value.report.survivors == 0 and isinstance(caught.value, UserError)


def authors_rule(table: list[dict[str, Any]], n_layers: int, thresholds: Thresholds) -> list[tuple[int, int]]:
    """The published procedure written naively, over rows."""
    kept = []
    for row in table:
        scores = [row["refusal_score"], row["steering_score"], row["kl_div_score"]]
        if any(math.isnan(s) for s in scores):
            continue
        if thresholds.prune_layers is not None and row["layer"] >= int(n_layers * (1.0 - thresholds.prune_layers)):
            continue
        if thresholds.kl is not None and scores[2] > thresholds.kl:
            continue
        if thresholds.induce is not None and scores[1] < thresholds.induce:
            continue
        kept.append((-scores[0], row["position"], row["layer"]))
    return [(position, layer) for _, position, layer in sorted(kept, key=lambda item: item[0], reverse=True)]


VALUES = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.05, 0.1, 0.100001, 1.0, math.nan])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_authors_rule_on_random_tables(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7)))
    cells = 3 * shape[0] * shape[1]
    values = data.draw(st.lists(VALUES, min_size=cells, max_size=cells))
    scores = CandidateScores(*np.array(values).reshape(3, *shape))
    thresholds = Thresholds(
        kl=data.draw(st.sampled_from([0.1, 1.0, None])),
        induce=data.draw(st.sampled_from([0.0, None])),
        prune_layers=data.draw(st.sampled_from([0.2, 0.0, 0.5, None])),
    )
    expected = authors_rule(rows(scores), shape[1], thresholds)
    norms = np.ones(shape)
    reasons = dropped_by(scores, thresholds, norms)
    assert set(expected).isdisjoint(reasons) and len(expected) + len(reasons) == shape[0] * shape[1]
    if not expected:
        with pytest.raises(NoCandidateError):
            select(scores, thresholds, norms)
        return
    selection = select(scores, thresholds, norms)
    assert [(c.position, c.layer) for c in selection.survivors] == expected
    assert (selection.position, selection.layer) == expected[0]


@pytest.mark.parametrize("model", ["gemma-2b-it", "qwen-1_8b-chat"])
def test_reproduces_the_published_selection(model: str) -> None:
    run = SHARED / "reference_runs" / model
    if not run.is_dir():
        pytest.skip(f"the authors' published numbers are not at {run}")
    table = json.loads((run / "select_direction" / "direction_evaluations.json").read_text())
    filtered = json.loads((run / "select_direction" / "direction_evaluations_filtered.json").read_text())
    scores = from_rows(table)
    assert rows(scores) == table
    selection = select(scores)
    assert [candidate.row() for candidate in selection.survivors] == filtered
    metadata = json.loads((run / "direction_metadata.json").read_text())
    assert {"pos": selection.position, "layer": selection.layer} == metadata


def test_reproduces_the_demo_models_oracle() -> None:
    oracle = SHARED / "oracle" / "organism.json"
    if not oracle.is_file():
        pytest.skip(f"the demo model's oracle is not at {oracle}")
    scores = from_rows(json.loads(oracle.read_text())["rows"])
    with pytest.raises(NoCandidateError, match="0 of 180"):
        select(scores)
    selection = select(scores, Thresholds(kl=0.5))
    assert {(c.position, c.layer) for c in selection.survivors} == {(-1, 17), (-1, 18), (-1, 19)}
    assert (selection.position, selection.layer) == (-1, 19)
