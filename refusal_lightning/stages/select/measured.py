"""What a selection tells loggers: the scores of the candidates by layer, and the choice."""

from __future__ import annotations

from refusal_lightning.directions.selection.candidates import SCORES
from refusal_lightning.directions.selection.choose import NoCandidateError
from refusal_lightning.loggers.measured import Measured
from refusal_lightning.stages.select.result import SelectionResult


def measured(result: SelectionResult) -> Measured:
    """Each score by layer, a curve for each position, with gaps where staged scoring left candidates out."""
    scores, inputs, choice = result.table.means(), result.inputs, result.choice
    n_positions, n_layers = scores.shape
    curves = {
        f"{kind}/position_{position}": {layer: float(scores[kind][position, layer]) for layer in range(n_layers)}
        for kind in SCORES
        for position in range(-n_positions, 0)
    }
    scalars: dict[str, float | None] = {f"baseline/{name}": value for name, value in inputs.baseline.items()}
    scalars |= {f"prompts/{found.prompts.name}": len(found.prompts) for found in inputs.kept.values()}
    scalars["candidates"] = n_positions * n_layers
    if isinstance(choice, NoCandidateError):
        return Measured({**scalars, "candidates_passed": 0}, curves)
    selected = choice.scores._asdict() | {"norm": float(result.norms[choice.place]), "margin": choice.margin}
    scalars |= {f"selected/{name}": value for name, value in selected.items()}
    return Measured({**scalars, "candidates_passed": len(choice.survivors)}, curves)
