"""The figures of a run, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refusal_lightning.report.summary import _differences
from refusal_lightning.runs.folder import RunFolder


@pytest.mark.parametrize("order", [("baseline", "ablation"), ("ablation", "baseline")])
def test_differences_from_the_baseline_whichever_comes_first(order, tmp_path: Path) -> None:
    """Compliance of 10 % and 40 %: ablation takes 30 points of the refusals, in whatever order they were asked for."""
    up = order[0] == "baseline"
    interval = [0.1, 0.5] if up else [-0.5, -0.1]
    row = {"judge": "j", "first": order[0], "second": order[1], "difference": 0.3 if up else -0.3}
    row |= {"difference_interval": interval, "p_value": 0.01}
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / "set_comparisons.json").write_text(json.dumps({"comparisons": [row]}))
    (found,) = _differences(RunFolder(tmp_path, ""), "set", {})
    assert (found.intervention, found.change, found.interval) == ("ablation", -0.3, (-0.5, -0.1))
    (found,) = _differences(RunFolder(tmp_path, ""), "set", {"j": "mentions the sea"})
    assert (found.intervention, found.change, found.interval) == ("ablation", 0.3, (0.1, 0.5))
