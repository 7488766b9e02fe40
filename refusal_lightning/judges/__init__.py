"""Judges: text in, verdicts out. A judge says whether an answer complies; to add one, add a file and an entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refusal_lightning.errors import UserError
from refusal_lightning.judges import harmbench, llama_guard, strongreject, substring
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.sources.local import LocalLoader
from refusal_lightning.judges.verdict import Judge, Verdict

__all__ = ["JUDGES", "Judge", "JudgeSettings", "Verdict", "judges_by_name"]

# By the name in the config: what makes the judge from the settings and, if there is one, a loader of local models.
JUDGES: dict[str, Callable[[JudgeSettings, LocalLoader | None], Judge]] = {
    "substring": substring.make,
    "llama_guard": llama_guard.make,
    "llama_guard_local": llama_guard.make_local,
    "harmbench": harmbench.make,
    "strongreject": strongreject.make,
}


def judges_by_name(
    names: Sequence[str], settings: JudgeSettings | None = None, load_local: LocalLoader | None = None
) -> dict[str, Judge]:
    """Judges by the name that the evaluation files use, ready to work.

    Raises UserError for an unknown name, a key that is not in the environment, or a local judge without ``load_local``.
    """
    for name in names:
        if name not in JUDGES:
            raise UserError(f"judges: there is no judge {name!r}; there are {', '.join(JUDGES)}")
    judges = [JUDGES[name](settings or JudgeSettings(), load_local) for name in dict.fromkeys(names)]
    return {judge.name: judge for judge in judges}
