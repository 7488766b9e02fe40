import dataclasses
import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_lightning.directions.selection.candidates import CandidateScores, from_rows
from refusal_lightning.directions.selection.filters import PAPER_THRESHOLDS, Thresholds, dropped_by
from refusal_lightning.directions.selection.report import ThresholdChange, filter_report

TABLE = from_rows(json.loads((Path(__file__).parent / "fixtures" / "score_table.json").read_text()))
FIELDS = {"kl_threshold": "kl", "induce_threshold": "induce", "prune_layers": "prune_layers"}


def apply(thresholds: Thresholds, change: ThresholdChange) -> Thresholds:
    return dataclasses.replace(thresholds, **{FIELDS[change.key]: change.value})


def test_counts() -> None:
    report = filter_report(TABLE, PAPER_THRESHOLDS)
    assert (report.total, report.survivors) == (10, 3)
    assert report.fell == {"zero_norm": 2, "pruned_layer": 2, "nan": 0, "induce": 2, "kl": 1}
    assert report.fails == {"zero_norm": 2, "pruned_layer": 2, "nan": 1, "induce": 4, "kl": 1}


def test_nearest_misses_and_changes() -> None:
    report = filter_report(TABLE, PAPER_THRESHOLDS)
    assert [(m.candidate.position, m.candidate.layer, m.rules) for m in report.misses] == [
        (-2, 4, ("pruned_layer",)),
        (-1, 1, ("induce",)),
        (-1, 2, ("kl",)),
        (-2, 1, ("induce",)),
    ]
    changes = {
        change.key: (change.value, change.candidate.position, change.candidate.layer) for change in report.changes
    }
    assert changes == {
        "kl_threshold": (0.105, -1, 2),
        "induce_threshold": (-0.125, -1, 1),
        "prune_layers": (0.0, -2, 4),
    }


def test_prune_change_is_the_smallest() -> None:
    scores = CandidateScores(np.zeros((1, 30)), np.ones((1, 30)), np.zeros((1, 30)))
    (change,) = filter_report(scores, PAPER_THRESHOLDS, norms=np.ones((1, 30))).changes
    assert (change.key, change.value, change.candidate.layer) == ("prune_layers", 0.16, 24)


def test_text_is_a_few_readable_lines() -> None:
    text = filter_report(TABLE, PAPER_THRESHOLDS).text()
    assert text.splitlines()[0] == "3 of 10 candidates pass the filter"
    assert "2 dropped: induce score too low (below 0), 4 fail this rule in all" in text
    assert "one change: kl_threshold: 0.105 would let position -1, layer 2 through" in text
    assert len(text.splitlines()) < 16 and max(map(len, text.splitlines())) < 110


def test_summary_names_a_way_through_when_nothing_passes() -> None:
    summary = filter_report(TABLE, Thresholds(kl=0.04)).summary()
    assert "\n" not in summary
    assert summary.startswith("0 of 10 candidates pass the filter (2 zero direction, 2 pruned layers")
    assert "kl_threshold: 0.07 would let position -2, layer 2 through" in summary


def test_ruled_out_candidates_are_counted_by_their_rule() -> None:
    scores = CandidateScores(*(getattr(TABLE, f.name).copy() for f in dataclasses.fields(TABLE)))
    scores.kl[-1, 2] = scores.bypass[-1, 2] = np.nan
    scores.bypass[-2, 2] = np.nan
    report = filter_report(scores, PAPER_THRESHOLDS, ruled_out={(-1, 2): "kl", (-2, 2): "beaten"})
    assert report.fell == {"zero_norm": 2, "pruned_layer": 2, "nan": 0, "induce": 2, "kl": 1, "beaten": 1}
    assert "proven not the lowest" in report.text()
    assert report.fails["nan"] == 0  # not computed is not NaN
    assert "KL score too high (above 0.1)\n" in report.text()  # and not "0 fail this rule in all"


def test_a_score_not_needed_hides_no_way_through_and_one_not_to_be_had_does() -> None:
    scores = CandidateScores(np.full((1, 5), np.nan), np.ones((1, 5)), np.full((1, 5), 0.3))
    norms = np.ones((1, 5))
    changes = filter_report(scores, PAPER_THRESHOLDS, norms, ruled_out={}).changes
    assert [(change.key, change.value) for change in changes] == [("kl_threshold", 0.3)]
    assert filter_report(scores, PAPER_THRESHOLDS, norms).changes == ()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 1.0, None]), st.sampled_from([0.5, -0.5, 0.0, None]))
def test_every_change_lets_its_candidate_through(seed: int, kl: float | None, induce: float | None) -> None:
    rng = np.random.default_rng(seed)
    scores = CandidateScores(rng.normal(size=(2, 9)), rng.normal(size=(2, 9)), rng.exponential(size=(2, 9)))
    thresholds = Thresholds(kl, induce, 0.3)
    before = dropped_by(scores, thresholds)
    for change in filter_report(scores, thresholds).changes:
        at = (change.candidate.position, change.candidate.layer)
        assert at in before and at not in dropped_by(scores, apply(thresholds, change))
        assert change.value == float(f"{change.value:.3g}")
