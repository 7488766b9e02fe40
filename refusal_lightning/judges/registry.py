"""The registry of judges: one file and one line for each way to say whether an answer complies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.judges import harmbench, llama_guard, strongreject, substring
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.sources.local import LocalLoader
from refusal_lightning.judges.spec import JudgeSpec
from refusal_lightning.judges.verdict import Judge
from refusal_lightning.registry import Registry

JUDGES: Registry[JudgeSpec] = Registry(
    "judge",
    {
        "substring": substring.SPEC,
        "llama_guard": llama_guard.SPEC,
        "llama_guard_local": llama_guard.LOCAL_SPEC,
        "harmbench": harmbench.SPEC,
        "strongreject": strongreject.SPEC,
    },
)
"""By the name that configurations use."""


def judges_by_name(
    names: Sequence[str], settings: JudgeSettings | None = None, load_local: LocalLoader | None = None
) -> dict[str, Judge]:
    """Judges by the name that the evaluation files use, ready to work.

    Raises UserError for an unknown name, a key that is not in the environment, a local judge without ``load_local``, or
    two judges whose verdicts would have one name.
    """
    JUDGES.require(names, "judges")
    judges: dict[str, Judge] = {}
    for name in dict.fromkeys(names):
        judge = JUDGES[name].make(settings or JudgeSettings(), load_local)
        if judge.name in judges:
            raise UserError(f"judges: {name} calls its verdicts {judge.name!r}, and so does another one; leave one out")
        judges[judge.name] = judge
    return judges


def judges_made_from(names: Sequence[str], settings: JudgeSettings) -> dict[str, Any]:
    """What the judges' verdicts depend on, by the name that configurations use: settings, and the plugin if any."""
    return {
        name: {key: getattr(settings, key) for key in JUDGES[name].depends_on} | JUDGES.origin(name)
        for name in dict.fromkeys(names)
    }
