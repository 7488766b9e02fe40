"""A chat model: its tokenizer, template and token facts at once, its weights only when they are asked for.

Keeping the weights lazy lets every stage find out whether there is anything to do, in seconds, before it loads
gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of
from refusal_lightning.models.checkpoint import Checkpoint, DeviceMap
from refusal_lightning.models.engines.bridge import BridgeEngine
from refusal_lightning.models.engines.protocol import Engine
from refusal_lightning.models.families import FAMILIES, Family, family_of
from refusal_lightning.models.fingerprint import weights_digest
from refusal_lightning.models.pretrained import model_source, read_model_files
from refusal_lightning.models.template import (
    ChatTemplate,
    eoi_token_ids,
    family_template,
    tokenizer_template,
    with_answer_prefix,
)
from refusal_lightning.models.thinking import leaves_thought_open
from refusal_lightning.models.tokens import single_token_ids
from refusal_lightning.models.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ChatModel:
    """A chat model as the stages see it; copies of it share its weights.

    ``name`` is as it was asked for. ``identity`` is what its activations depend on (weights or commit, dtype,
    tokenizer, template, eoi tokens); ``n_positions`` eoi positions are read, -n_positions to -1. ``refusal_ids`` is
    empty until it is found from data, where neither the configuration nor the family names any.
    """

    name: str
    alias: str
    tokenizer: Any
    template: ChatTemplate
    eoi_ids: list[int]
    refusal_ids: list[int]
    stop_ids: list[int]
    n_layers: int
    d_model: int
    vocab_size: int
    context: int | None
    identity: dict[str, Any]
    weights: Weights = field(repr=False)

    @property
    def checkpoint(self) -> Checkpoint:
        return self.weights.checkpoint

    @property
    def dtype(self) -> str:
        return self.checkpoint.dtype

    @property
    def spread(self) -> bool:
        """Whether one copy of the weights lies over several devices."""
        return self.checkpoint.device_map is not None

    @property
    def n_positions(self) -> int:
        return len(self.eoi_ids)

    @property
    def thinks(self) -> bool:
        """Whether its prompts end in an open thought, so that an answer's first token is not the answer's."""
        return leaves_thought_open(self.tokenizer.decode(self.eoi_ids))

    def encode(self, instruction: str) -> list[int]:
        """Token ids of the prompt that the model reads for an instruction."""
        ids = self.template.encode(self.tokenizer, instruction)
        if self.context is not None and len(ids) > self.context:
            raise UserError(f"the prompt has {len(ids)} tokens, the model's context holds {self.context}")
        return ids

    def engine(self, device: str | torch.device) -> BridgeEngine:
        """What runs the model's passes; its weights are loaded at the first call, of whichever copy, and kept."""
        return self.weights.engine(device)

    def fast_engine(self, device: str | torch.device) -> Engine:
        """The same weights for decoding, without the bridge's price per pass where that can be had."""
        return self.weights.fast_engine(device)

    def release(self) -> None:
        """Let go of the weights, for all copies; they are loaded again when they are next asked for."""
        self.weights.release()

    def in_dtype(self, dtype: str) -> ChatModel:
        """The same model in another dtype, with weights of its own."""
        weights = Weights(replace(self.checkpoint, dtype=dtype))
        return replace(self, identity={**self.identity, "dtype": dtype}, weights=weights)


def load_chat_model(
    name: str,
    *,
    alias: str | None = None,
    revision: str | None = None,
    family: str = "auto",
    system_prompt: str | None = None,
    answer_prefix: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    refusal_tokens: Sequence[int | str] | Literal["auto"] | None = None,
    stop_tokens: Sequence[int | str] | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    offload_folder: str | None = None,
) -> ChatModel:
    """Tokenizer, template and token facts of a chat model (arguments: see ``ModelConfig``); no weights are loaded.

    Raises UserError for what a user can mend: no such model, no access, no template, a refusal token that is not
    one token, an encoder-decoder.
    """
    entry = _family(family, name)
    source = model_source(name)
    files = read_model_files(source, name, revision, trust_remote_code)
    config, tokenizer = files.config, files.tokenizer
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model {name!r} is an encoder-decoder; only decoder-only chat models are supported")
    template = _template_of(entry, tokenizer, system_prompt, name, template_options)
    if answer_prefix:
        template = with_answer_prefix(template, answer_prefix)
    # With a prefix the paper's count of positions, where it is not the derived one, would not reach the template.
    eoi_ids = eoi_token_ids(template, tokenizer, entry.n_positions if entry and not answer_prefix else None)
    refusal_ids = _refusal_ids(entry, tokenizer, refusal_tokens, name)
    text_config = config.get_text_config()
    commit = None if Path(source).is_dir() else files.commit or revision
    qwen1 = config if files.is_qwen1 else None
    checkpoint = Checkpoint(source, dtype, tokenizer, commit, trust_remote_code, device_map, offload_folder, qwen1)
    return ChatModel(
        name=name,
        alias=alias_of(name, alias),
        tokenizer=tokenizer,
        template=template,
        eoi_ids=eoi_ids,
        refusal_ids=refusal_ids,
        stop_ids=_stop_ids(entry, tokenizer, stop_tokens, files.end_ids),
        n_layers=text_config.num_hidden_layers,
        d_model=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        context=getattr(text_config, "max_position_embeddings", None),
        identity={
            "model": _which_model(source, name, files.commit, trust_remote_code),
            "dtype": dtype,
            "tokenizer_sha256": _tokenizer_digest(tokenizer),
            "template": template.text,
            "system_prompt": system_prompt,
            "eoi_token_ids": eoi_ids,
        },
        weights=Weights(checkpoint),
    )


def _template_of(
    entry: Family | None,
    tokenizer: Any,
    system_prompt: str | None,
    name: str,
    template_options: Mapping[str, Any] | None,
) -> ChatTemplate:
    """The family's template, or the tokenizer's own; options go with that one only, else they are a UserError."""
    if entry is None:
        return tokenizer_template(tokenizer, system_prompt, name, template_options)
    if template_options:
        raise UserError(
            f"model.template_options go with the tokenizer's own chat template, and {name!r} is spoken to through that "
            f"of family {entry.name}; set model.family: tokenizer, or remove them"
        )
    return family_template(entry, tokenizer, system_prompt)


def _refusal_ids(
    entry: Family | None, tokenizer: Any, named: Sequence[int | str] | Literal["auto"] | None, name: str
) -> list[int]:
    """The named refusal tokens, else the family's; none where they are to be found from the data."""
    if named is None and entry:
        _require_vocabulary(entry, tokenizer, name)
        named = entry.refusal_tokens
    return [] if named in (None, "auto") else single_token_ids(named, tokenizer, "model.refusal_tokens")


def _stop_ids(
    entry: Family | None, tokenizer: Any, named: Sequence[int | str] | None, end_ids: frozenset[int]
) -> list[int]:
    """Tokens that end an answer: those that end a text, the family's, and the named ones."""
    more = single_token_ids([*(entry.stop_tokens if entry else ()), *(named or ())], tokenizer, "stop token")
    return sorted({*end_ids, *more})


def alias_of(name: str, alias: str | None = None) -> str:
    """The name of a model's folders: the alias, else the last part of its name. Raises UserError where it has none, as
    `/`."""
    if alias:
        return alias
    last = Path(name).name
    if last in ("", "..", "~") and Path(name).expanduser().is_dir():  # `.`, `..`, `~` and such
        last = Path(name).expanduser().resolve().name
    if last in ("", ".", "..", "~"):
        raise UserError(f"model.name {name!r} gives no name for the folders of its results; give it a model.alias")
    return last


def _which_model(source: str, name: str, commit: str | None, own_code: bool) -> dict[str, Any]:
    """What exactly the weights are, and the code that comes with them where it is run."""
    if Path(source).is_dir():
        return {"weights_sha256": weights_digest(Path(source), own_code)}
    return {"name": name, "commit": commit}


def _family(family: str, name: str) -> Family | None:
    if family == "auto":
        return family_of(name)
    if family == "tokenizer":
        return None
    if family not in FAMILIES:
        known = ", ".join([*FAMILIES, "tokenizer", "auto"])
        raise UserError(f"model.family {family!r} is not known; known are {known}")
    return FAMILIES[family]


def _require_vocabulary(family: Family, tokenizer: Any, name: str) -> None:
    """Raise UserError where the ids of a family's refusal tokens mean something else in this vocabulary."""
    for token, word in zip(family.refusal_tokens, family.refusal_words, strict=True):
        found = tokenizer.decode([token]).strip() if token < len(tokenizer) else None
        if found != word:
            said = "not in the vocabulary" if found is None else repr(found)
            raise UserError(
                f"model {name!r} is not of family {family.name}: that family's refusal token {token} is {word!r} there "
                f"and {said} here; set model.family: tokenizer, or name model.refusal_tokens"
            )


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return sha256_of(text)
