"""Draw the share of answers that refuse under each intervention, from a run's folder, as SVG, PDF or PNG:
`python examples/rates_figure.py runs/smollm2-135m-refuses rates.svg`
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from refusal_lightning.interventions.registry import in_columns, label_of
from refusal_lightning.report.summary import read_summary
from refusal_lightning.runs.folder import RunFolder

COLOURS = ("#7a7f87", "#0072b2", "#e69f00", "#009e73", "#cc79a7")  # told apart by colour-blind readers, and in grey


def main(run: str, out: str) -> None:
    """Read the rates of the first judge and draw a bar for each, with Wilson's 95 % interval."""
    summary = read_summary(RunFolder(Path(run).parent, Path(run).name))
    judge = summary.rates[0].judge
    rates = {(rate.dataset, rate.intervention): rate for rate in summary.rates if rate.judge == judge}
    sets = list(dict.fromkeys(dataset for dataset, _ in rates))
    interventions = in_columns(how for _, how in rates)
    width = 0.8 / len(interventions)
    plt.rcParams.update({"svg.hashsalt": "refusal_lightning", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for column, how in enumerate(interventions):
        for place, dataset in enumerate(sets):
            rate = rates[dataset, how]
            if rate.share is None or rate.interval is None:
                continue
            x = place + (column - (len(interventions) - 1) / 2) * width
            low, high = rate.interval
            label = label_of(how) if place == 0 else None
            axes.bar(x, rate.share, 0.92 * width, color=COLOURS[column % len(COLOURS)], label=label)
            axes.errorbar(x, rate.share, [[rate.share - low], [high - rate.share]], color="#1b1f24", capsize=3, lw=1)
            axes.annotate(f"{rate.share:.0%}", (x, high), (0, 3), textcoords="offset points", ha="center")
    axes.set(ylim=(0, 1.12), ylabel="share of answers that refuse")
    axes.set_xticks(range(len(sets)), [f"{name.replace('_', ' ')} prompts" for name in sets])
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(interventions), frameon=False)
    figure.savefig(out, dpi=200, metadata={"Date": None} if out.endswith(".svg") else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
