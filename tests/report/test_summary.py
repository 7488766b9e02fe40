"""The figures of a run, read from its folder."""

from __future__ import annotations

import pytest

from refusal_lightning.report.summary import differences_of


@pytest.mark.parametrize("order", [("baseline", "ablation"), ("ablation", "baseline")])
def test_differences_from_the_baseline_whichever_comes_first(order) -> None:
    """Compliance of 10 % and 40 %: ablation takes 30 points of the refusals, in whatever order they were asked for."""
    up = order[0] == "baseline"
    interval = [0.1, 0.5] if up else [-0.5, -0.1]
    row = {"judge": "j", "first": order[0], "second": order[1], "difference": 0.3 if up else -0.3}
    row |= {"difference_interval": interval, "p_value": 0.01}
    (found,) = differences_of("set", [row], {})
    assert (found.intervention, found.change, found.interval) == ("ablation", -0.3, (-0.5, -0.1))
    (found,) = differences_of("set", [row], {"j": "mentions the sea"})
    assert (found.intervention, found.change, found.interval) == ("ablation", 0.3, (0.1, 0.5))
