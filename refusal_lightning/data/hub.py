"""Datasets of the Hugging Face Hub: ``hub:org/name[@revision][:config][:split]``, through the datasets library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.io.network import cut_off
from refusal_lightning.io.text import one_line

PREFIX = "hub:"


@dataclass(frozen=True)
class HubSet:
    """A split of a dataset on the Hub."""

    repo: str
    """Hub name, org/name."""
    config: str | None = None
    """The dataset's configuration (None: its only or default one)."""
    split: str | None = None
    """The split (None: the only one there is)."""
    revision: str | None = None
    """Branch, tag or commit (None: the main branch as it is today)."""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        split = f":{self.config or ''}:{self.split}" if self.split else f":{self.config}" if self.config else ""
        return f"{PREFIX}{self.repo}{at}{split}"


def parse_hub(name: str) -> HubSet:
    """The set that ``hub:org/name[@revision][:config][:split]`` stands for (``hub:org/name::split``: no config)."""
    repo, *rest = name.removeprefix(PREFIX).split(":")
    repo, _, revision = repo.partition("@")
    if len(rest) > 2 or len(repo.split("/")) > 2 or not all(repo.split("/")):
        raise UserError(f"dataset {name!r} is not of the form hub:org/name[@revision][:config][:split]")
    config, split = [*rest, "", ""][:2]
    return HubSet(repo, config or None, split or None, revision or None)


def load_hub(hub: HubSet) -> list[dict[str, Any]]:
    """The rows of a split, class labels by their names. Raises UserError with the start of the library's reason."""
    import datasets

    loaded = _loaded(hub, streaming=False)
    labels = {k: f for k, f in (loaded.features or {}).items() if isinstance(f, datasets.ClassLabel)}
    # A class label of -1 stands for none.
    named = {k: lambda i, f=f: f.int2str(i) if i is not None and i >= 0 else None for k, f in labels.items()}
    return [{k: named[k](v) if k in named else v for k, v in row.items()} for row in loaded]


def hub_rows(hub: HubSet) -> Iterator[dict[str, Any]]:
    """The rows of a split in its order, streamed: no more is fetched than is asked for. Raises UserError."""
    rows = iter(_loaded(hub, streaming=True))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the network, in the middle
            raise _failed(hub, error) from error
        yield row


def _loaded(hub: HubSet, streaming: bool) -> Any:
    import datasets

    require_no_namesake(hub)
    cut_off()
    try:
        loaded = datasets.load_dataset(
            hub.repo, hub.config, split=hub.split, revision=hub.revision, streaming=streaming
        )
    except Exception as error:  # whatever the library or the network raises; its start says what
        raise _failed(hub, error) from error
    if isinstance(loaded, dict):
        if len(loaded) != 1:
            raise UserError(
                f"dataset {hub} has the splits {', '.join(map(str, loaded))}: name one, as in {PREFIX}{hub.repo}:"
                f"{hub.config or ''}:{next(iter(loaded), 'train')}"
            )
        loaded = next(iter(loaded.values()))
    return loaded


def require_no_namesake(hub: HubSet) -> None:
    """Raise UserError where a folder has the dataset's name: the library reads it instead, whatever the revision."""
    if Path(hub.repo).exists():
        raise UserError(
            f"dataset {hub}: {hub.repo!r} is also a folder or file where you work, and would be taken for it; move it, "
            "or start from another folder"
        )


def _failed(hub: HubSet, error: Exception) -> UserError:
    if cut_off() and not Path(hub.repo).exists():
        return UserError(
            f"dataset {hub} cannot be loaded: it is not in the cache, and the Hub cannot be reached from this machine"
        )
    reason = one_line(error)[:200] or "no message"
    return UserError(
        f"dataset {hub} cannot be loaded ({type(error).__name__}: {reason}); check its name, config and split, "
        "the connection, and for a gated dataset `hf auth login`"
    )
