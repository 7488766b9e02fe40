"""A chat model: its tokenizer, template and token facts at once, its weights only when they are asked for.

Keeping the weights lazy lets every stage find out whether there is anything to do, in seconds, before it loads
gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of
from refusal_lightning.io.side_effects import no_processors
from refusal_lightning.io.text import one_line
from refusal_lightning.models.blocks import block_facts
from refusal_lightning.models.families import FAMILIES, Family, family_of
from refusal_lightning.models.fingerprint import weights_digest
from refusal_lightning.models.pretrained import model_source, read_model_files
from refusal_lightning.models.qwen1.checkpoint import load_qwen1
from refusal_lightning.models.template import (
    ChatTemplate,
    eoi_token_ids,
    family_template,
    tokenizer_template,
    with_answer_prefix,
)
from refusal_lightning.models.thinking import leaves_thought_open
from refusal_lightning.models.tokens import single_token_ids

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import Qwen2Config

    from refusal_lightning.models.engines.native import HookedModel

DeviceMap = str | dict[str, int | str]
"""`auto`, or the device of each part of a model: a GPU's number, `cpu` or `disk`."""


@dataclass
class ChatModel:
    """A chat model as the stages see it.

    ``identity`` is what its activations depend on (weights or commit, dtype, tokenizer, template, eoi tokens);
    ``n_positions`` eoi positions are read, -n_positions to -1. ``refusal_ids`` is empty until it is found from data,
    where neither the configuration nor the family names any.
    """

    alias: str
    source: str
    dtype: str
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
    revision: str | None = None
    trust_remote_code: bool = False
    device_map: DeviceMap | None = None
    offload_folder: str | None = None
    qwen1_config: Qwen2Config | None = field(default=None, repr=False)
    """Set for a first-generation Qwen model, which is loaded as a Qwen-2 one of this configuration."""
    when_loaded: Callable[[str | torch.device], None] | None = field(default=None, repr=False)
    """Called with the device whenever the weights have been loaded, before anything else uses them."""
    _bridge: TransformerBridge | None = field(default=None, repr=False)
    _decoder: HookedModel | None = field(default=None, repr=False)

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

    def bridge(self, device: str | torch.device) -> TransformerBridge:
        """The model itself, loaded at the first call and kept; its hooks carry TransformerLens names.

        It is on the device, or where ``device_map`` puts it. Residuals are the Hugging Face model's own: no folded
        norms, no centred weights.
        """
        import torch
        from transformers.utils.logging import disable_progress_bar

        if self._bridge is None:
            disable_progress_bar()
            try:
                bridge = self._boot(str(device))
                bridge.requires_grad_(False)
                bridge.eval()
                facts = block_facts(bridge)
            except (torch.OutOfMemoryError, UserError):
                raise
            except Exception as error:  # whatever an architecture's code makes of a first pass
                what = f"{type(error).__name__}: " if not isinstance(error, OSError | ValueError) else ""
                raise UserError(f"model {self.source!r} cannot be loaded: {what}{one_line(error)}") from error
            if facts.problem is not None:
                name = type(bridge.original_model).__name__
                raise UserError(f"{name} cannot be measured here: {facts.problem}; choose another model")
            self._bridge = bridge
            if self.when_loaded is not None:
                try:
                    self.when_loaded(device)
                except BaseException:
                    self.release()
                    raise
        return self._bridge

    def _boot(self, device: str) -> TransformerBridge:
        import torch
        from transformer_lens.model_bridge import TransformerBridge

        dtype = getattr(torch, self.dtype)
        places = self.device_map.values() if isinstance(self.device_map, dict) else ()
        gpus = {int(str(place).removeprefix("cuda:")) for place in places if place not in ("cpu", "disk")}
        if gpus and max(gpus) >= torch.cuda.device_count():
            raise UserError(
                f"model.device_map names GPU {max(gpus)}, and this machine shows {torch.cuda.device_count()} GPUs "
                "(counted from 0)"
            )
        spread = {"device_map": self.device_map, "offload_folder": self.offload_folder}
        if self.qwen1_config is None:
            placement: dict[str, Any] = {"device": device} if self.device_map is None else spread
        else:
            within = {"device_map": {"": device}} if self.device_map is None else spread
            model = load_qwen1(self.source, self.revision, self.qwen1_config, dtype, **within)
            # The bridge would place it again, and takes either a device or a model that is spread already.
            placement = {"hf_model": model, "device": device if self.device_map is None else None}
        with no_processors():
            return TransformerBridge.boot_transformers(
                self.source,
                dtype=dtype,
                tokenizer=self.tokenizer,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
                **placement,
            )

    def release(self) -> None:
        """Let go of the weights; they are loaded again when they are next asked for."""
        self._bridge = self._decoder = None

    def input_device(self, device: str | torch.device) -> torch.device:
        """Where token ids go: the device, or that of the embedding where ``device_map`` spreads the model."""
        import torch

        if self.device_map is None:
            return torch.device(device)
        embedding = torch.device(str(self.bridge(device).cfg.device))
        # Weights that are off-loaded are nowhere until they are needed; then they are in the CPU's memory.
        return torch.device("cpu") if embedding.type == "meta" else embedding

    def decoder(self, device: str | torch.device) -> HookedModel:
        """The same weights for decoding, without the bridge's price per pass where that can be had; kept as well."""
        from refusal_lightning.models.engines.native import bridged_model, hooked_model

        if self._decoder is None:
            bridge = self.bridge(device)
            # A model that is spread over devices is called as it was spread.
            self._decoder = hooked_model(bridge) if self.device_map is None else bridged_model(bridge)
        return self._decoder


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
    if entry and template_options:
        raise UserError(
            f"model.template_options go with the tokenizer's own chat template, and {name!r} is spoken to through that "
            f"of family {entry.name}; set model.family: tokenizer, or remove them"
        )
    template = (
        family_template(entry, tokenizer, system_prompt)
        if entry
        else tokenizer_template(tokenizer, system_prompt, name, template_options)
    )
    if answer_prefix:
        template = with_answer_prefix(template, answer_prefix)
    # With a prefix the paper's count of positions, where it is not the derived one, would not reach the template.
    eoi_ids = eoi_token_ids(template, tokenizer, entry.n_positions if entry and not answer_prefix else None)
    if refusal_tokens is None:
        if entry:
            _require_vocabulary(entry, tokenizer, name)
        refusal_tokens = entry.refusal_tokens if entry else "auto"
    refusal_ids = (
        [] if refusal_tokens == "auto" else single_token_ids(refusal_tokens, tokenizer, "model.refusal_tokens")
    )
    more_stops = single_token_ids(
        [*(entry.stop_tokens if entry else ()), *(stop_tokens or ())], tokenizer, "stop token"
    )
    text_config = config.get_text_config()
    local = Path(source).is_dir()
    identity = {
        "model": {"weights_sha256": weights_digest(Path(source), trust_remote_code)}
        if local
        else {"name": name, "commit": files.commit},
        "dtype": dtype,
        "tokenizer_sha256": _tokenizer_digest(tokenizer),
        "template": template.text,
        "system_prompt": system_prompt,
        "eoi_token_ids": eoi_ids,
    }
    return ChatModel(
        alias=alias or _alias(name),
        source=source,
        dtype=dtype,
        tokenizer=tokenizer,
        template=template,
        eoi_ids=eoi_ids,
        refusal_ids=refusal_ids,
        stop_ids=sorted({*files.end_ids, *more_stops}),
        n_layers=text_config.num_hidden_layers,
        d_model=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        context=getattr(text_config, "max_position_embeddings", None),
        identity=identity,
        revision=None if local else files.commit or revision,
        trust_remote_code=trust_remote_code,
        device_map=device_map,
        offload_folder=offload_folder,
        qwen1_config=config if files.is_qwen1 else None,
    )


def _alias(name: str) -> str:
    """The last part of a model's name, as the name of a folder. Raises UserError where it has none, as `/`."""
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
