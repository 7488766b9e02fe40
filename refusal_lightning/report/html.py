"""report.html: one file, no scripts, nothing fetched; every text is escaped."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path

import jinja2

from refusal_lightning.data.labels import Labels
from refusal_lightning.data.loss_sets import LOSS_SETS
from refusal_lightning.interventions.registry import in_columns, label_of
from refusal_lightning.io.files import write_text
from refusal_lightning.io.hashing import file_digest
from refusal_lightning.report.figures.registry import figures_of
from refusal_lightning.report.figures.scores import ScoredCandidates
from refusal_lightning.report.summary import Summary, read_summary
from refusal_lightning.runs.folder import RunFolder

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ s.alias }}: {{ direction }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .35rem .8rem; border-bottom: 1px solid #d5d9de; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } th { text-align: left; }
img { max-width: 100%; } figure { margin: 1.5rem 0; } figcaption { color: #57606a; font-size: .9rem; }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; font-size: .8rem; }
</style></head><body>
<h1>{{ s.alias }}</h1>
{% if s.selected %}
<p>Selected direction: position <b>{{ s.selected.position }}</b>, layer <b>{{ s.selected.layer }}</b>{{ s.by_hand }};
bypass score {{ "%.3f"|format(s.selected.refusal_score) }}, induce score {{ "%.3f"|format(s.selected.steering_score) }},
KL score {{ "%.3f"|format(s.selected.kl_div_score) }}.</p>
{% endif %}
{% if rows %}
<h2>Answers{{ s.measured }}</h2>
<p>Share of the judged answers, with Wilson's 95 % interval.</p>
<table><tr><th>instructions</th><th>judge</th>{% for i in shown %}<th class="n">{{ label_of(i) }}</th>{% endfor %}</tr>
{% for row in rows %}<tr><td>{{ row.dataset }}</td><td>{{ row.judge }}</td>
{% for c in row.cells %}<td class="n">{% if c.total %}{{ c.count }}/{{ c.total }} =
{{ "%.1f"|format(100 * c.share) }} % [{{ "%.1f"|format(100 * c.interval[0]) }},
{{ "%.1f"|format(100 * c.interval[1]) }}]{% else %}none judged{% endif %}</td>
{% endfor %}</tr>{% endfor %}</table>
{% endif %}
{% if s.differences %}
<h2>Change of that share, against the baseline</h2>
<table><tr><th>instructions</th><th>judge</th><th>intervention</th><th class="n">change (points)</th>
<th class="n">95 % interval</th><th class="n">p (McNemar)</th></tr>
{% for d in s.differences %}<tr><td>{{ d.dataset }}</td><td>{{ d.judge }}</td><td>{{ label_of(d.intervention) }}</td>
<td class="n">{{ "none judged" if d.change is none else points(d.change) }}</td>
<td class="n">[{{ points(d.interval[0]) }}, {{ points(d.interval[1]) }}]</td>
<td class="n">{{ "%.2g"|format(d.p_value) }}</td></tr>{% endfor %}</table>
{% endif %}
{% if s.losses %}
<h2>Cross-entropy loss</h2>
<table><tr><th>texts</th><th>intervention</th><th class="n">CE loss (nats)</th><th class="n">perplexity</th>
<th class="n">tokens</th></tr>
{% for l in s.losses %}<tr><td>{{ texts(l.dataset) }}</td><td>{{ label_of(l.intervention) }}</td>
<td class="n">{{ "%.4f"|format(l.ce_loss) }}</td><td class="n">{{ "%.4f"|format(l.perplexity) }}</td>
<td class="n">{{ l.n_tokens }}</td></tr>{% endfor %}</table>
{% endif %}
{% if filter_report %}<h2>Filter</h2><pre>{{ filter_report }}</pre>{% endif %}
{% for plot in plots %}<figure><img alt="{{ plot.about }}" src="data:image/png;base64,{{ plot.data }}">
<figcaption>{{ plot.about }}</figcaption></figure>{% endfor %}
<h2>How it came about</h2><pre>{{ record }}</pre>
</body></html>
"""


def _points(share: float) -> str:
    """A change of a share in points of a percent, with its sign unless it is none."""
    rounded = round(100 * share, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def _texts(labels: Labels, name: str) -> str:
    """What a set of texts is called: by its key, or where that is not true of these kinds of prompts, by its label."""
    label = LOSS_SETS[name].label if name in LOSS_SETS and not labels.are_of_refusal else name
    return labels.named(label) if labels.named(label) != label else name


def render_report(summary: Summary, run: RunFolder) -> str:
    """The report of a run as HTML; without answers or instructions, only figures."""
    shown = in_columns(rate.intervention for rate in summary.rates)
    groups = dict.fromkeys((r.dataset, r.judge) for r in summary.rates)
    rows = [
        {
            "dataset": dataset,
            "judge": judge,
            "cells": [
                r for i in shown for r in summary.rates if (r.dataset, r.judge, r.intervention) == (dataset, judge, i)
            ],
        }
        for dataset, judge in groups
    ]
    plots = [
        {"about": summary.labels.named(spec.caption), "data": base64.b64encode(path.read_bytes()).decode()}
        for name, spec in figures_of(ScoredCandidates).items()
        if _is_bound(summary, run, path := run.score_plot(name))
    ]
    labels, rules = summary.labels, run.filter_report
    direction = "refusal direction" if labels.are_of_refusal else f"from {labels.harmless} to {labels.harmful}"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        s=summary,
        rows=rows,
        shown=shown,
        label_of=label_of,
        points=_points,
        direction=direction,
        texts=partial(_texts, labels),
        plots=plots,
        filter_report=rules.read_text(encoding="utf-8") if _is_bound(summary, run, rules) else "",
        record=json.dumps(
            {k: v for k, v in summary.record.items() if k not in ("timings", "files")}, indent=2, ensure_ascii=False
        ),
    )


def write_report(run: RunFolder) -> Summary:
    """Write a run's report from what its folder holds, and note in run.json what is in it; returns what it shows."""
    summary = read_summary(run)
    write_text(run.report, render_report(summary, run))
    run.bind(run.report)
    return summary


def _is_bound(summary: Summary, run: RunFolder, path: Path) -> bool:
    """Whether a file is there, and the one that the run's record tells of (in runs of earlier versions, it tells of
    none)."""
    about = summary.record.get("files", {}).get(path.relative_to(run.path).as_posix(), {})
    if not path.is_file():
        return False
    return about.get("sha256") in (None, file_digest(path))
