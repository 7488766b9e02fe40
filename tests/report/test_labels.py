"""The user's labels in what is shown; with harmful and harmless, the words of ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusal_lightning.data.labels import REFUSAL, Labels
from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.judges.verdict import Measures, measured_text
from refusal_lightning.report.figures.analyses import AnalysisTable
from refusal_lightning.report.figures.registry import FIGURES, draw_all, figures_of
from refusal_lightning.report.figures.scores import ScoredCandidates
from refusal_lightning.report.html import render_report
from refusal_lightning.report.summary import read_summary, terminal_table
from refusal_lightning.runs.folder import RunFolder

KINDS = Labels("sea", "mountain")
SCORED = ScoredCandidates(
    CandidateScores(*(np.ones((1, 2)) for _ in range(3))), ["a"], {"harmful": 1.0, "harmless": 0.0}, (-1, 1)
)


def _written(folder: Path, labels: Labels, measures: dict[str, Measures]) -> RunFolder:
    """A run of one set of each kind, 1 of 4 answers complying under the baseline and 3 under ablation."""
    run = RunFolder(folder, "tiny")
    sets = {role: [f"{label}_test"] for role, label in labels._asdict().items()}
    interventions = ["baseline", "ablation"]
    entry = {"config": {"data": {"labels": list(labels)}}, "interventions": interventions, "losses": True, **sets}
    record: dict[str, Any] = {"evaluate": {**entry, "judges": list(measures)}}
    if set(measures.values()) != {"refusal"}:
        record["evaluate"]["measures"] = measures
    (run.path / "completions").mkdir(parents=True)
    (run.path / "loss_evals").mkdir()
    run.record.write_text(json.dumps(record))
    for name in (*sets["harmful"], *sets["harmless"]):
        for intervention, complied in zip(interventions, (1, 3), strict=True):
            verdicts: dict[str, Any] = {"completions": [{f"is_jailbreak_{j}": int(i < complied) for j in measures}
                                                        for i in range(4)]}  # fmt: skip
            verdicts |= {f"{judge}_interval": [0.1, 0.6] for judge in measures}
            run.completion_evaluations(name, intervention).write_text(json.dumps(verdicts))
        row = {"first": "baseline", "second": "ablation", "difference": 0.5, "difference_interval": [0.1, 0.7]}
        rows = [{**row, "judge": judge, "p_value": 0.5} for judge in measures]
        run.comparisons(name).write_text(json.dumps({"comparisons": rows}))
    loss = {"alpaca_custom_completions": {"ce_loss": 1.0, "perplexity": 2.7, "n_tokens": 9}}
    for intervention in interventions:
        run.loss_eval(intervention).write_text(json.dumps(loss))
    return run


def test_labels_are_put_where_the_kinds_stand():
    assert KINDS.named("{harmful} and {harmless}, {other}") == "sea and mountain, {other}"
    assert REFUSAL.named("{harmful} and {harmless}") == "harmful and harmless"
    assert REFUSAL.are_of_refusal and not KINDS.are_of_refusal and not Labels("harmless", "harmful").are_of_refusal
    assert Labels.of_record({"select": {"config": {"data": {"labels": ["sea", "mountain"]}}}}) == KINDS
    assert Labels.of_record({"evaluate": {"config": {"data": {}}}}) == Labels.of_record({}) == REFUSAL


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("ablation_scores", "Ablation, harmful"),
        ("actadd_scores", "Addition, harmless"),
        ("kl_div_scores", "Ablation, harmless"),
    ],
)
def test_titles_of_score_figures(name: str, title: str):
    (axes,) = FIGURES[name].draw(SCORED).axes
    assert axes.get_title() == title
    (axes,) = FIGURES[name].draw(replace(SCORED, labels=KINDS)).axes
    assert axes.get_title() == title.replace("harmful", "sea").replace("harmless", "mountain")
    assert draw_all(replace(SCORED, labels=KINDS))[name] != draw_all(SCORED)[name]


def test_title_of_separability():
    rows = [{"position": -1, "layer": i, "auroc": 0.5, "low": 0.4, "high": 0.6} for i in range(2)]
    table = AnalysisTable(rows, ["a"], None)
    (axes,) = FIGURES["separability"].draw(table).axes
    assert axes.get_title() == "Separability of held-out harmful and harmless prompts"
    (axes,) = FIGURES["separability"].draw(replace(table, labels=KINDS)).axes
    assert axes.get_title() == "Separability of held-out sea and mountain prompts"


def test_no_caption_has_labels_of_its_own():
    captions = [spec.caption for kind in (ScoredCandidates, AnalysisTable) for spec in figures_of(kind).values()]
    assert any("harmful" in REFUSAL.named(caption) for caption in captions)
    assert not any("harm" in KINDS.named(caption) for caption in captions)


def test_a_judge_of_refusal_counts_those_that_do_not_comply(tmp_path: Path):
    run = _written(tmp_path, REFUSAL, {"substring_matching": "refusal"})
    summary = read_summary(run)
    assert [rate.count for rate in summary.rates] == [3, 1, 3, 1] and summary.differences[0].change == -0.5
    table, page = terminal_table(summary, run.path), render_report(summary, run)
    assert table.startswith("tiny: share of answers that refuse\n") and "CE loss, own harmless answers" in table
    assert "<h2>Answers that refuse</h2>" in page and "<title>tiny: refusal direction</title>" in page
    assert "<td>alpaca_custom_completions</td>" in page


def test_another_behaviour_is_counted_where_it_shows(tmp_path: Path):
    run = _written(tmp_path, KINDS, {"phrases": "mentions the sea"})
    summary = read_summary(run)
    assert [rate.count for rate in summary.rates] == [1, 3, 1, 3] and summary.rates[0].interval == (0.1, 0.6)
    assert [(d.change, d.interval) for d in summary.differences] == [(0.5, (0.1, 0.7))] * 2
    table, page = terminal_table(summary, run.path), render_report(summary, run).partition("How it came about")[0]
    assert table.startswith("tiny: share of answers: mentions the sea\n")
    assert "CE loss, own mountain answers" in table
    assert "<h2>Answers: mentions the sea</h2>" in page and "from mountain to sea" in page
    assert not any(word in text for text in (table, page) for word in ("harm", "refus", "alpaca"))


def test_titles_name_what_each_judge_measures():
    assert measured_text({"substring": "refusal", "own": "refusal"}) == " that refuse"
    assert measured_text({"llama_guard": "harm"}) == " that do no harm"
    both: dict[str, Measures] = {"substring": "refusal", "phrases": "mentions the sea"}
    assert measured_text(both) == " that refuse (substring); mentions the sea (phrases)"
