"""What a run proves on its own model before it reports a number: the checks of the passes that its numbers are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from refusal_lightning.doctor.ablation import check_ablation
from refusal_lightning.doctor.context import CheckContext
from refusal_lightning.doctor.decoding import check_bridge_decoding, check_decoding, check_harness_decoding
from refusal_lightning.doctor.finding import Finding
from refusal_lightning.doctor.hooks import check_none_left
from refusal_lightning.doctor.padding import check_padded_batch
from refusal_lightning.doctor.scoring import check_scores
from refusal_lightning.errors import UserError

Check = Callable[[CheckContext], Finding]

_ALWAYS: tuple[Check, ...] = (check_padded_batch, check_ablation)
_OF_WORK: dict[str, Check] = {
    "scores": check_scores,
    "answer KL": check_bridge_decoding,
    "answers": check_decoding,
    "harness": check_harness_decoding,
}


def prove_hooks(first: CheckContext, more: CheckContext, work: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run the checks of these kinds of work on a few prompts: what each compared, its figure and bound, by its name.

    Raises UserError for the first that fails. In half precision a router or a near-tie may carry a single prompt over
    the bound, so what fails on these few prompts is judged by a majority of ``more``.
    """
    chat = first.chat
    if any(kind in ("answers", "harness") for kind in work):
        first.fast_engine  # noqa: B018  made outside of inference mode, as without these checks
    found: dict[str, dict[str, Any]] = {}
    for check in (*_ALWAYS, *(_OF_WORK[kind] for kind in work), check_none_left):
        finding = _run(check, first)
        if finding.verdict == "fail" and first.dtype in (torch.float16, torch.bfloat16):
            finding = _run(check, more)
        if finding.verdict == "fail":
            figure = "nothing" if finding.figure is None else f"{finding.figure:.2g}"
            raise UserError(
                f"this run's hooks were proved wrong on {chat.alias} before its work: {finding.name}, "
                f"{finding.compared}: {figure}, at most {finding.bound:.2g} is rounding. {finding.advice}"
            )
        name = finding.name.partition(",")[0]
        found[name] = {"figure": finding.figure, "bound": finding.bound, "compared": finding.compared}
    return found


def _run(check: Check, material: CheckContext) -> Finding:
    try:
        with torch.inference_mode():
            return check(material)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        raise UserError(
            f"this run's hooks could not be proved on {material.chat.alias}: the check of {name} ended in "
            f"{type(error).__name__} ({' '.join(str(error).split())[:200]}), as the work itself may. Use another model "
            "or other versions of transformers and TransformerLens, and report it with the architecture"
        ) from error
