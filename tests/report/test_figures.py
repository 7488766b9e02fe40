"""Figures by name: each from a small result, the same bytes each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refusal_lightning.directions.selection.candidates import CandidateScores
from refusal_lightning.report.figures.analyses import AnalysisTable
from refusal_lightning.report.figures.canvas import new_figure, png
from refusal_lightning.report.figures.registry import FIGURES, FigureSpec, draw_all, figures_of
from refusal_lightning.report.figures.scores import ScoredCandidates

TOKENS = ["a", "$b$"]
SCORED = ScoredCandidates(
    CandidateScores(*(np.array([[1.0, np.nan, 2.0], [0.0, 3.0, k]]) for k in (1.0, 2.0, 3.0))),
    TOKENS,
    {"harmful": 1.5, "harmless": -1.0},
    (-1, 1),
)


def _table(name: str, selected: tuple[int, int] | None) -> AnalysisTable:
    places = [{"position": p, "layer": i} for p in (-2, -1) for i in range(3)]
    band = {"low": 0.2, "high": 0.8}
    tables: dict[str, list[dict[str, Any]]] = {
        "separability": [{**place, **band, "auroc": 0.5} for place in places],
        "similarity": [],
        "stability": [
            {**place, **band, "measure": measure, "n_harmful": n, "mean": 0.5}
            for place in places
            for measure, n in (("bootstrap", 4), ("subset", 1), ("subset", 2), ("split", 1))
            if selected in (None, (place["position"], place["layer"]))
        ],
        "projection": [
            {**place, "dataset": d, "split": "", "label": "", "prompts": 3, "mean": 0.5, "q05": 0.0, "q95": 1.0}
            for d in ("one", "two")
            for place in places
        ],
    }
    return AnalysisTable(tables[name], TOKENS, selected, {"cosine": np.linspace(-1, 1, 36).reshape(2, 3, 2, 3)})


def test_every_score_figure_is_drawn():
    drawn = draw_all(SCORED)
    assert list(drawn) == ["ablation_scores", "actadd_scores", "kl_div_scores"]
    assert all(content.startswith(b"\x89PNG") for content in drawn.values())
    assert len(set(drawn.values())) == 3
    assert draw_all(SCORED) == drawn


@pytest.mark.parametrize("name", figures_of(AnalysisTable))
def test_analysis_figures_show_the_selected_candidate(name):
    figure = FIGURES[name].draw(_table(name, (-1, 1)))
    (axes, *_) = figure.axes
    assert len(axes.lines) + len(axes.images) >= 2
    assert png(figure) == png(FIGURES[name].draw(_table(name, (-1, 1))))
    if name == "projection":
        with pytest.raises(ValueError, match="selected"):
            FIGURES[name].draw(_table(name, None))
    else:
        assert png(FIGURES[name].draw(_table(name, None))) != png(figure)


def test_a_line_per_position_and_a_band_around_it():
    (axes,) = FIGURES["separability"].draw(_table("separability", (-1, 1))).axes
    *lines, level, star = axes.lines
    assert [line.get_label() for line in lines] == ["-2: 'a'", r"-1: '\$b\$'"]
    assert [np.asarray(line.get_xdata()).tolist() for line in lines] == [[0, 1, 2]] * 2
    assert np.asarray(level.get_ydata()).tolist() == [0.5, 0.5]
    assert np.asarray(star.get_xydata()).tolist() == [[1.0, 0.5]]
    assert len(axes.collections) == 2


def test_a_figure_is_added_by_one_entry(monkeypatch):
    monkeypatch.setattr(FIGURES, "_entries", dict(FIGURES))
    FIGURES.register("mine", FigureSpec(lambda scored: new_figure(1, 1), ScoredCandidates, "Nothing."))
    assert list(draw_all(SCORED))[-1] == "mine"
    assert "mine" not in figures_of(AnalysisTable)
