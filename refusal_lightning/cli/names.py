"""Names that a configuration may give: those that are registered, by the package or by plugins.

The sections of other stages are looked at too, so that the first stage tells of a name which the last would refuse.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from refusal_lightning.errors import UserError

_REGISTRIES = {
    "trainer.logger": "refusal_lightning.loggers.registry:LOGGERS",
    "select.estimators": "refusal_lightning.directions.estimators.registry:ESTIMATORS",
    "evaluate.interventions": "refusal_lightning.interventions.registry:INTERVENTIONS",
    "evaluate.judges": "refusal_lightning.judges.registry:JUDGES",
    "capability.interventions": "refusal_lightning.interventions.registry:INTERVENTIONS",
    "analyze.analyses": "refusal_lightning.stages.analyze.registry:ANALYSES",
}
"""Of each key that holds names, the registry that has them, as `module:name`."""


def require_registered(sections: Mapping[str, Any]) -> None:
    """Raise UserError where a section, by its name, holds a name that no registry has."""
    for mistake in unregistered(sections):
        raise UserError(mistake)


def unregistered(sections: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say of each key of some sections, by their names, that holds a name which no registry has.

    A registry is imported only where a value is not the default, since some import torch.
    """
    for dotted, target in _REGISTRIES.items():
        section, key = dotted.split(".")
        if section not in sections:
            continue
        value = getattr(sections[section], key)
        given = [name for name in value if name not in _default(type(sections[section]), key)]
        if given:
            module, name = target.split(":")
            try:
                getattr(importlib.import_module(module), name).require(given, dotted)
            except UserError as error:
                yield str(error)


def _default(section: type, key: str) -> list[str]:
    """What a key holds where nothing is given."""
    fields = {field.name: field for field in dataclasses.fields(section)}
    factory: Any = fields[key].default_factory
    return list(factory())
