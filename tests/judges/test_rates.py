"""The evaluation file: the paper's keys with the paper's values, and what is added."""

from typing import Any

import pytest

from refusal_lightning.judges.intervals import wilson
from refusal_lightning.judges.rates import evaluate_completions, summary
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.judges.verdict import Measures, Verdict

ROWS: list[dict[str, Any]] = [
    {"category": "b", "prompt": "p0", "response": "Blue, of course."},
    {"category": "a", "prompt": "p1", "response": "I'm sorry, no."},
    {"category": "b", "prompt": "p2", "response": "I cannot."},
    {"category": None, "prompt": "p3", "response": "", "kept": 1},
]


class _Fixed:
    measures: Measures = "harm"

    def __init__(self, name, verdicts):
        self.name, self.verdicts = name, verdicts

    def __call__(self, pairs, answers):
        return self.verdicts

    def check(self):
        pass


def test_the_papers_keys():
    result = evaluate_completions(ROWS, judges_by_name(["substring"]))
    assert result["substring_matching_success_rate"] == 0.5
    assert result["substring_matching_per_category"] == {"None": 1.0, "a": 0.0, "b": 0.5}
    assert list(result["substring_matching_per_category"]) == ["None", "a", "b"]
    assert [row["is_jailbreak_substring_matching"] for row in result["completions"]] == [1, 0, 0, 1]
    assert [row["response"] for row in result["completions"]] == [row["response"] for row in ROWS]
    assert result["completions"][3]["kept"] == 1
    assert all("is_jailbreak_substring_matching" not in row for row in ROWS), "the input is left as it is"


def test_intervals_and_counts():
    result = evaluate_completions(ROWS, judges_by_name(["substring"]))
    assert result["substring_matching_interval"] == list(wilson(2, 4))
    assert result["substring_matching_counts"] == {"complied": 2, "judged": 4, "unjudged": 0}
    assert result["substring_matching_per_category_intervals"]["b"] == list(wilson(1, 2))
    assert result["substring_matching_per_category_counts"]["b"] == {"complied": 1, "judged": 2, "unjudged": 0}
    assert "judge_agreement" not in result
    assert [row.get("raw_substring_matching") for row in result["completions"]] == [None, "i'm sorry", "i cannot", None]


def test_the_unjudged_are_in_no_rate_and_in_every_count():
    bad = Verdict(None, "hm", note="the answer is unreadable")
    judge = _Fixed("x", [Verdict(True, "unsafe"), bad, Verdict(False, "safe"), bad])
    result = evaluate_completions(ROWS, {"x": judge})
    assert result["x_success_rate"] == 0.5
    assert result["x_counts"] == {"complied": 1, "judged": 2, "unjudged": 2}
    assert result["x_per_category"] == {"None": None, "a": None, "b": 0.5}
    assert result["x_per_category_intervals"]["a"] is None
    assert result["x_notes"] == {"the answer is unreadable": 2}
    assert [row["is_jailbreak_x"] for row in result["completions"]] == [1, None, 0, None]
    assert result["completions"][1]["note_x"] == "the answer is unreadable"
    assert "2 could not be judged" in summary(result, ["x"])
    assert "2 x the answer is unreadable" in summary(result, ["x"])


def test_nothing_judged_at_all():
    result = evaluate_completions(ROWS[:1], {"x": _Fixed("x", [Verdict(None, "", note="no answer: HTTP 500")])})
    assert (result["x_success_rate"], result["x_interval"]) == (None, None)
    assert "0/0 comply; 1 could not" in summary(result, ["x"])
    assert evaluate_completions([], judges_by_name(["substring"]))["substring_matching_success_rate"] is None


def test_scores():
    verdicts = [Verdict(s >= 0.5, "1.b", score=s) for s in (0.0, 1.0, 0.5)] + [Verdict(None, "", note="n")]
    result = evaluate_completions(ROWS, {"x": _Fixed("x", verdicts)})
    assert result["x_mean_score"] == 0.5
    low, high = result["x_mean_score_interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert [row.get("score_x") for row in result["completions"]] == [0.0, 1.0, 0.5, None]
    assert "mean score 0.500" in summary(result, ["x"])


def test_several_judges_side_by_side():
    other = _Fixed("x", [Verdict(True, ""), Verdict(True, ""), Verdict(False, ""), Verdict(None, "", note="n")])
    result = evaluate_completions(ROWS, {**judges_by_name(["substring"]), "x": other})
    (entry,) = result["judge_agreement"]
    assert entry["judges"] == ["substring_matching", "x"]
    assert (entry["judged_by_both"], entry["rows_that_differ"]) == (3, [1])
    assert entry["kappa"] == pytest.approx(0.4)
    assert "substring_matching and x: kappa 0.400, differ on 1/3" in summary(result, ["substring_matching", "x"])
