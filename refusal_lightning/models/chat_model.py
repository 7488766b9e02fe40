"""A chat model: its tokenizer, template and token facts at once, its weights only when they are asked for.

Keeping the weights lazy lets every stage find out whether there is anything to do, in seconds, before it loads
gigabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError
from refusal_lightning.models.demo import DEMO_MODELS, demo_model_folder
from refusal_lightning.models.families import FAMILIES, Family, family_of
from refusal_lightning.models.fingerprint import weights_digest
from refusal_lightning.models.template import ChatTemplate, eoi_token_ids, family_template, tokenizer_template
from refusal_lightning.models.tokens import single_token_ids

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    from refusal_lightning.models.hooked import HookedModel


@dataclass
class ChatModel:
    """A chat model as the stages see it.

    ``identity`` is what its activations depend on (weights or commit, dtype, tokenizer, template, eoi tokens);
    ``n_positions`` eoi positions are read, -n_positions to -1.
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
    _bridge: TransformerBridge | None = field(default=None, repr=False)
    _decoder: HookedModel | None = field(default=None, repr=False)

    @property
    def n_positions(self) -> int:
        return len(self.eoi_ids)

    def encode(self, instruction: str) -> list[int]:
        """Token ids of the prompt that the model reads for an instruction."""
        ids = self.tokenizer(self.template.render(instruction), add_special_tokens=False)["input_ids"]
        if self.context is not None and len(ids) > self.context:
            raise UserError(f"a prompt has {len(ids)} tokens, the model's context holds {self.context}")
        return list(ids)

    def bridge(self, device: str | torch.device) -> TransformerBridge:
        """The model itself on a device, loaded at the first call and kept; its hooks carry TransformerLens names.

        Residuals are the Hugging Face model's own: no folded norms, no centred weights.
        """
        import torch
        from transformer_lens.model_bridge import TransformerBridge
        from transformers.utils.logging import disable_progress_bar

        if self._bridge is None:
            disable_progress_bar()
            try:
                bridge = TransformerBridge.boot_transformers(
                    self.source,
                    device=str(device),
                    dtype=getattr(torch, self.dtype),
                    tokenizer=self.tokenizer,
                    revision=self.revision,
                    trust_remote_code=self.trust_remote_code,
                )
            except (OSError, ValueError) as error:
                raise UserError(f"model {self.source!r} cannot be loaded: {_one_line(error)}") from error
            bridge.requires_grad_(False)
            bridge.eval()
            self._bridge = bridge
        return self._bridge

    def decoder(self, device: str | torch.device) -> HookedModel:
        """The same weights for decoding, without the bridge's price per pass where that can be had; kept as well."""
        from refusal_lightning.models.hooked import hooked_model

        if self._decoder is None:
            self._decoder = hooked_model(self.bridge(device))
        return self._decoder


def load_chat_model(
    name: str,
    *,
    alias: str | None = None,
    revision: str | None = None,
    family: str = "auto",
    system_prompt: str | None = None,
    refusal_tokens: Sequence[int | str] | None = None,
    stop_tokens: Sequence[int | str] | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> ChatModel:
    """Tokenizer, template and token facts of a chat model (arguments: see ``ModelConfig``); no weights are loaded.

    Raises UserError for what a user can mend: no such model, no access, no template, a refusal token that is not
    one token, an encoder-decoder.
    """
    entry = _family(family, name)
    source = _source(name)
    config, tokenizer, end_ids = _read(source, name, revision, trust_remote_code)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model {name!r} is an encoder-decoder; only decoder-only chat models are supported")
    template = (
        family_template(entry, tokenizer, system_prompt)
        if entry
        else tokenizer_template(tokenizer, system_prompt, name)
    )
    eoi_ids = eoi_token_ids(template, tokenizer, entry.n_positions if entry else None)
    wanted = refusal_tokens if refusal_tokens is not None else entry.refusal_tokens if entry else None
    if wanted is None:
        raise UserError(
            f"model {name!r} is of no known family: give its refusal tokens, e.g. model.refusal_tokens: [I]"
        )
    refusal_ids = single_token_ids(wanted, tokenizer, "model.refusal_tokens")
    more_stops = single_token_ids(
        [*(entry.stop_tokens if entry else ()), *(stop_tokens or ())], tokenizer, "stop token"
    )
    text_config = config.get_text_config()
    commit = getattr(config, "_commit_hash", None)
    local = Path(source).is_dir()
    identity = {
        "model": {"weights_sha256": weights_digest(Path(source))} if local else {"name": name, "commit": commit},
        "dtype": dtype,
        "tokenizer_sha256": _tokenizer_digest(tokenizer),
        "template": template.text,
        "system_prompt": system_prompt,
        "eoi_token_ids": eoi_ids,
    }
    return ChatModel(
        alias=alias or name.rstrip("/").rsplit("/", 1)[-1],
        source=source,
        dtype=dtype,
        tokenizer=tokenizer,
        template=template,
        eoi_ids=eoi_ids,
        refusal_ids=refusal_ids,
        stop_ids=sorted({*end_ids, *more_stops}),
        n_layers=text_config.num_hidden_layers,
        d_model=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        context=getattr(text_config, "max_position_embeddings", None),
        identity=identity,
        revision=None if local else commit or revision,
        trust_remote_code=trust_remote_code,
    )


def _family(family: str, name: str) -> Family | None:
    if family == "auto":
        return family_of(name)
    if family == "tokenizer":
        return None
    if family not in FAMILIES:
        known = ", ".join([*FAMILIES, "tokenizer", "auto"])
        raise UserError(f"model.family {family!r} is not known; known are {known}")
    return FAMILIES[family]


def _source(name: str) -> str:
    """A folder or a hub name, from what the user wrote. Raises UserError for a folder without a model."""
    if name in DEMO_MODELS:
        return str(demo_model_folder(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: folder {name!r} holds no model (no config.json in it)")
        return str(path)
    if path.exists():
        raise UserError(f"model.name: {name!r} is a file; give the folder that holds config.json and the weights")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"model.name: there is no folder {name!r}")
    return name


def _read(source: str, name: str, revision: str | None, trust: bool) -> tuple[Any, Any, set[int]]:
    """The model's config, tokenizer and end-of-text ids."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust)
        commit = getattr(config, "_commit_hash", None) or revision
        tokenizer = AutoTokenizer.from_pretrained(source, revision=commit, trust_remote_code=trust)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(_why_not(name, error)) from error
    try:
        ends = GenerationConfig.from_pretrained(source, revision=commit or "main").eos_token_id
    except OSError:
        ends = None
    ends = ends if ends is not None else getattr(config, "eos_token_id", None)
    end_ids = {ends} if isinstance(ends, int) else set(ends or ())
    if tokenizer.eos_token_id is not None:
        end_ids.add(tokenizer.eos_token_id)
    return config, tokenizer, end_ids


def _why_not(name: str, error: Exception) -> str:
    text = _one_line(error)
    if "gated" in text.lower() or "401" in text or "403" in text:
        return (
            f"model {name!r} is gated: accept its licence on its page at huggingface.co, then set HF_TOKEN or run "
            "`hf auth login`"
        )
    if "trust_remote_code" in text:
        return f"model {name!r} needs code of its own repository; read it, then set model.trust_remote_code: true"
    return f"model {name!r} cannot be read (no such folder, not on the Hub, or no network): {text[:300]}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()
