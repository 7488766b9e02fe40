"""``rl.register``: own parts from a notebook, and again when a cell is run again."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from nodes import ROOT

import refusal_lightning as rl
from refusal_lightning import plugins
from refusal_lightning.api.registering import REGISTRIES
from refusal_lightning.interventions import KeyedIntervention, ablation
from refusal_lightning.interventions.registry import INTERVENTIONS, InterventionSpec, build_intervention
from refusal_lightning.judges.registry import JUDGES
from refusal_lightning.judges.spec import JudgeSpec
from refusal_lightning.judges.verdict import JudgeResponses, Measures, Pair, Verdict


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    for registry in (JUDGES, INTERVENTIONS):
        monkeypatch.setattr(registry, "_entries", dict(registry))
        monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr(plugins, "_loaded", [])


class Short:
    name: str = "short"
    measures: Measures = "refusal"

    def __init__(self, most: int) -> None:
        self.most = most

    def check(self) -> None:
        pass

    def __call__(self, pairs: Sequence[Pair], answers: JudgeResponses) -> list[Verdict]:
        return [Verdict(len(response) <= self.most, "") for _, response in pairs]


def test_an_own_judge_and_an_own_intervention(tiny, tiny_run):
    direction = rl.open_run(tiny_run.run).direction
    rl.register("judge", "short", JudgeSpec(lambda settings, load: Short(0)))
    turned = InterventionSpec("turned", lambda vector, layer, role: KeyedIntervention(ablation(vector.flip(0))))
    rl.register("intervention", "turned", turned)
    how: dict[str, Any] = {"judges": ["short"], "max_new_tokens": 3, "interventions": ["baseline", "turned"]}
    first = rl.evaluate(tiny, direction, ["Explain a garden."], ["Write a letter."], **how)
    assert set(first.rates["share"]) == {1.0}
    assert len(first.losses) == 2 and first.losses["ce_loss"].nunique() == 2

    rl.register("judge", "short", JudgeSpec(lambda settings, load: Short(10**6)))
    assert set(rl.evaluate(tiny, direction, ["Explain a garden."], ["Write a letter."], **how).rates["share"]) == {0.0}

    straight = InterventionSpec("turned", lambda vector, layer, role: KeyedIntervention(ablation(vector)))
    rl.register("intervention", "turned", straight)
    again = rl.evaluate(tiny, direction, ["Explain a garden."], ["Write a letter."], **how)
    assert again.losses["ce_loss"].tolist() != first.losses["ce_loss"].tolist()
    assert [one["name"] for one in plugins.record()] == ["judge short", "intervention turned"]


def test_what_was_made_with_an_older_one_is_not_found_for_it():
    vector = torch.ones(3, dtype=torch.float64)
    keys = []
    for _ in range(2):
        mine = InterventionSpec("mine", lambda vector, layer, role: KeyedIntervention(ablation(vector)))
        rl.register("intervention", "mine", mine)
        keys.append(build_intervention("mine", vector, 0, "harmful").depends_on)
    assert keys[0] != keys[1]


def test_names_of_the_package_stay():
    with pytest.raises(rl.UserError, match="there is a judge 'substring' already"):
        rl.register("judge", "substring", JudgeSpec(lambda settings, load: Short(0)))
    assert plugins.record() == []
    with pytest.raises(rl.UserError, match="there is no kind 'judges'; there are analysis, check"):
        rl.register("judges", "a", None)


def test_every_registry_is_open():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| .*? \| `(refusal_lightning[\w.]+)` \|", page, re.MULTILINE)
    assert sorted(where.replace(":", ".") for where in REGISTRIES.values()) == sorted(named)
    for where in REGISTRIES.values():
        module, _, attribute = where.partition(":")
        assert getattr(importlib.import_module(module), attribute)
