"""Draw the share of answers that refuse under each intervention, from a run's folder, as SVG, PDF or PNG:
`python examples/rates_figure.py runs/smollm2-135m-refuses rates.svg`
"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

import refusal_lightning as rl
from refusal_lightning.interventions.registry import in_columns, label_of

COLOURS = ("#7a7f87", "#0072b2", "#e69f00", "#009e73", "#cc79a7")  # told apart by colour-blind readers, and in grey


def main(run: str, out: str) -> None:
    """A bar for each set and intervention by the first judge, with Wilson's 95 % interval."""
    rates = rl.open_run(run).rates
    rates = rates[rates.judge == rates.judge.iloc[0]]
    sets, interventions = list(rates.dataset.unique()), in_columns(rates.intervention)
    width = 0.8 / len(interventions)
    plt.rcParams.update({"svg.hashsalt": "rates", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for column, how in enumerate(interventions):
        shown = rates[rates.intervention == how].set_index("dataset").loc[sets].astype({"share": float})
        x = [place + (column - (len(interventions) - 1) / 2) * width for place in range(len(sets))]
        axes.bar(x, shown.share, 0.92 * width, color=COLOURS[column % len(COLOURS)], label=label_of(how))
        whiskers = [shown.share - shown.low, shown.high - shown.share]
        axes.errorbar(x, shown.share, whiskers, fmt="none", ecolor="#1b1f24", capsize=3, lw=1)
        for place, share, high in zip(x, shown.share, shown.high, strict=True):
            axes.annotate(f"{share:.0%}", (place, high), (0, 3), textcoords="offset points", ha="center")
    axes.set(ylim=(0, 1.12), ylabel="share of answers that refuse")
    axes.set_xticks(range(len(sets)), [f"{name.replace('_', ' ')} prompts" for name in sets])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(interventions), frameon=False)
    figure.savefig(out, dpi=200, metadata={"Date": None} if out.endswith(".svg") else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
