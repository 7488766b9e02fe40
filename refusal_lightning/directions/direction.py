"""A direction with all that says what it is, and its file: one safetensors file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jaxtyping import Float

from refusal_lightning.errors import UserError
from refusal_lightning.io.files import write_bytes
from refusal_lightning.io.hashing import digest

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "refusal_lightning.direction"
"""What a file's metadata calls its format."""
VERSION = 1
"""Of the format; a file of another one is refused."""
TENSOR = "direction"
"""The name of the file's one tensor."""
MOST_BYTES = 64 << 20
"""No file of one direction is larger: a width of a million takes 8 MB."""


class ModelFacts(Protocol):
    """What a model says of itself, as ``rl.load_model``'s and ``ChatModel`` do."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in a model's residual stream (paper, section 2.3), and how it was made.

    ``save`` writes it to one file, ``load`` reads it back; ``require_fits`` refuses another model. Raises UserError for
    a vector that is none.
    """

    vector: Float[Tensor, " d_model"] = field(repr=False)
    """float64, as it was estimated: its norm is kept. It points from harmless to harmful."""
    layer: int
    """Block that it was read from, from 0; activation addition adds it there."""
    position: int
    """Token that it was read from, counted from the end of the prompt: -1 is the last."""
    n_layers: int
    """Of the model."""
    model_name: str
    """As the model was asked for."""
    identity: Mapping[str, Any] = field(repr=False)
    """What the model's activations depend on: weights or commit, dtype, tokenizer, template."""
    hook_point: str = "resid_pre"
    """What was read: the block's input."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """``bypass`` and ``induce`` (log-odds) and ``kl`` (nats), as `select` measured them; None where it did not."""
    made_from: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """How it was made, as JSON: estimator, prompts' digests, thresholds, package versions."""

    def __post_init__(self) -> None:
        import torch

        vector = torch.as_tensor(self.vector).detach().to("cpu", torch.float64).clone()
        if vector.ndim != 1 or not len(vector) or not vector.isfinite().all():
            raise UserError(f"a direction is a vector of finite numbers; this one has the shape {tuple(vector.shape)}")
        if not 0 <= self.layer < self.n_layers:
            raise UserError(f"a direction of layer {self.layer} is of no model with {self.n_layers} layers")
        object.__setattr__(self, "vector", vector)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return len(self.vector)

    @property
    def norm(self) -> float:
        """Its Euclidean length."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Float[Tensor, " d_model"]:
        """It over its norm."""
        return self.vector / self.vector.norm()

    @property
    def model_digest(self) -> str:
        """A short hash of ``identity``, as runs call the model."""
        return digest(dict(self.identity))

    def cosine(self, other: Direction) -> float:
        """Cosine with another direction. Raises UserError where the widths differ."""
        if other.d_model != self.d_model:
            raise UserError(f"directions of width {self.d_model} and {other.d_model} have no cosine")
        return float(self.unit @ other.unit)

    def require_fits(self, model: ModelFacts) -> None:
        """Raise UserError, which names what differs, where this is no direction of the model.

        The width, the number of layers and the weights must be the same. Dtype, template and system prompt may differ:
        they change activations, and not what a vector in the stream means.
        """
        self.require_shape(model.n_layers, model.d_model, model.name)
        own, theirs = self.identity.get("model"), model.identity.get("model")
        if own != theirs:
            raise UserError(
                f"the direction was made for {_weights(self.model_name, own)}, and the model is "
                f"{_weights(model.name, theirs)}; make one with `select`, or say that it is meant: "
                "direction.moved_to(model)"
            )

    def require_shape(self, n_layers: int, d_model: int, name: str) -> None:
        """Raise UserError where a model of these sizes cannot have this direction."""
        for what, own, theirs in (("width", self.d_model, d_model), ("number of layers", self.n_layers, n_layers)):
            if own != theirs:
                raise UserError(f"the direction was made for {self.model_name}: {what} {own}; {name} has {theirs}")

    def moved_to(self, model: ModelFacts) -> Direction:
        """The same vector as a direction of another model of the same sizes, such as a fine-tuned one.

        Its scores go, since they were the other model's; ``made_from`` says where it is from. Raises UserError.
        """
        self.require_shape(model.n_layers, model.d_model, model.name)
        origin = {"model_name": self.model_name, "identity": dict(self.identity)}
        made_from = {**self.made_from, "moved_from": origin}
        return replace(self, model_name=model.name, identity=model.identity, scores={}, made_from=made_from)

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file, whole or not at all, and return the path.

        The same direction gives the same bytes: one float64 tensor, ``direction``, and everything else as text in the
        metadata. Raises UserError for another suffix.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise UserError(f"{path.name!r} must end in .safetensors, which is what is written")
        about = {name: getattr(self, name) for name in _ABOUT}
        metadata = {"format": FORMAT, "version": str(VERSION)}
        metadata |= {name: json.dumps(_json(value), sort_keys=True) for name, value in about.items()}
        data = self.vector.numpy().astype("<f8").tobytes()
        # By hand: the library writes the metadata in another order each time.
        tensor = {"dtype": "F64", "shape": [self.d_model], "data_offsets": [0, len(data)]}
        header = json.dumps({"__metadata__": metadata, TENSOR: tensor}, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        write_bytes(path, len(header).to_bytes(8, "little") + header + data)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read what ``save`` wrote. Nothing in the file is executed. Raises UserError, with the file's name."""
        path = Path(path)
        metadata, vector = _read(path)
        if metadata.get("format") != FORMAT:
            raise UserError(f"{path} is a safetensors file, and no direction that Direction.save wrote")
        if metadata.get("version") != str(VERSION):
            known = f"this version of the package reads version {VERSION}"
            raise UserError(f"{path} is of version {metadata.get('version')!r:.40} of the format; {known}")
        try:
            about = {name: json.loads(metadata[name]) for name in _ABOUT}
            _check(about)
            return cls(vector=vector, **about)
        except (UserError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is no direction that Direction.save wrote: {error!s:.200}") from error


_ABOUT: dict[str, type] = {
    "layer": int,
    "position": int,
    "n_layers": int,
    "model_name": str,
    "identity": dict,
    "hook_point": str,
    "scores": dict,
    "made_from": dict,
}
"""The fields beside the vector, with the type that each has in JSON."""


def _json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _check(about: Mapping[str, Any]) -> None:
    """Raise ValueError where a field is not of its type."""
    for name, kind in _ABOUT.items():
        if not isinstance(about[name], kind) or isinstance(about[name], bool):
            raise ValueError(f"{name} is no {kind.__name__}")
    for name, score in about["scores"].items():
        if score is not None and not isinstance(score, float | int):
            raise ValueError(f"the score {name:.40} is no number")


def _read(path: Path) -> tuple[dict[str, str], Tensor]:
    """(metadata, vector) of a safetensors file with one float64 vector. Raises UserError."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES >> 20} MB; it is no file of one direction")
        with safe_open(path, framework="pt") as file:
            if list(file.keys()) != [TENSOR]:
                raise UserError(f"{path} holds other tensors than one of the name {TENSOR!r}; it is no direction")
            vector = file.get_tensor(TENSOR)
            metadata = dict(file.metadata() or {})
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error!s:.200})") from error
    if vector.dtype != torch.float64:
        raise UserError(f"{path} holds a tensor of {vector.dtype}; a direction is float64")
    return metadata, vector


def _weights(name: str, which: Any) -> str:
    """A model for a message: its name, and what tells its weights from others."""
    known = which if isinstance(which, Mapping) else {}
    exactly = known.get("weights_sha256") or known.get("commit")
    return f"{name} ({str(exactly)[:12]})" if exactly else str(name)
