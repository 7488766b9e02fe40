"""What the table of the terminal and the report say where something is missing, short or none."""

from pathlib import Path

from refusal_lightning.report.html import render_report
from refusal_lightning.report.summary import Difference, Loss, Rate, Summary, terminal_table
from refusal_lightning.runs.folder import RunFolder

CHOSEN = {"position": -1, "layer": 3, "refusal_score": 0.0, "steering_score": 0.0, "kl_div_score": 0.0}


def _summary(rates: list[Rate], differences: list[Difference]) -> Summary:
    losses = [Loss(name, "alpaca_custom_completions", 1.25, 3.5, 10) for name in ("baseline", "ablation")]
    return Summary("x", {}, CHOSEN, rates, differences, losses)


def test_losses_keep_their_table_without_judges(tmp_path):
    lines = terminal_table(_summary([], []), tmp_path).splitlines()
    assert lines[0] == "x: answers not judged (evaluate.judges is empty)"
    assert lines[2].split() == ["baseline", "ablation"]
    assert lines[3].split() == ["CE", "loss,", "own", "harmless", "answers", "1.2500", "1.2500"]


def test_no_change_has_no_sign(tmp_path: Path):
    rates = [Rate("s", "harmful", name, "substring", 1, 2, (0.1, 0.9)) for name in ("baseline", "ablation")]
    page = render_report(
        _summary(rates, [Difference("s", "ablation", "substring", -0.0, (-0.0004, 0.05), 1.0)]),
        RunFolder(tmp_path, "x"),
    )
    assert "-0.0" not in page and "[0.0, +5.0]" in page
