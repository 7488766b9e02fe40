"""A model's config.json as it stands, where it says all that the stages ask.

The config class of an architecture fills in what config.json leaves out, but importing it takes longer than anything
else that a stage without a model does.
"""

from __future__ import annotations

from typing import Any

_ASKED = ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings")


def plain_config(source: str, revision: str | None, values: dict[str, Any]) -> Any | None:
    """A config with config.json's own ``values``; None where the architecture's class is needed to read it.

    ``source`` is a folder or a Hub name, at a commit. Raises what transformers raises where it has no tokenizer.
    """
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    own_code = "auto_map" in values or values.get("model_type") not in CONFIG_MAPPING_NAMES
    # Without a class name of its own, the tokenizer's follows from the config's class.
    named = get_tokenizer_config(source, revision=revision).get("tokenizer_class")
    nested = any(isinstance(value, dict) and "hidden_size" in value for value in values.values())
    if own_code or nested or named is None or not all(isinstance(values.get(key), int) for key in _ASKED):
        return None
    return PreTrainedConfig.from_dict(values)
