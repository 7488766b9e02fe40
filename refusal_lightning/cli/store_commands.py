"""store info, verify, repair, export: a store's care, for the command line."""

from __future__ import annotations

import json
from typing import Any, Literal

from refusal_lightning.store import StoreError, integrity
from refusal_lightning.store.copying import copy
from refusal_lightning.store.export import export


def store_info(url: str, options: dict[str, Any] | None = None) -> None:
    """Print what is in a store as JSON: what made it, prompts, completeness, sizes.

    Args:
        url: The store's folder or URL.
        options: What obstore is told about a URL, as store.options of a configuration.
    """
    print(json.dumps(integrity.info(url, options), indent=2, ensure_ascii=False))


def store_verify(url: str, options: dict[str, Any] | None = None) -> None:
    """Recompute every checksum and check every promise of the manifest.

    Args:
        url: The store's folder or URL.
        options: What obstore is told about a URL, as store.options of a configuration.
    """
    problems = integrity.verify(url, options)
    for problem in problems:
        print(problem.what)
    damaged = [problem for problem in problems if not problem.missing]
    if damaged:
        raise StoreError(f"{len(damaged)} problems in {url}; `store repair {url}` drops what is damaged")
    missing = len(problems)
    print(f"{url} is sound" + (f"; {missing} arrays of shards are not computed yet (run `cache`)" if missing else ""))


def store_repair(url: str, options: dict[str, Any] | None = None) -> None:
    """Drop what is damaged, so that `cache` computes just that again. A job may be writing to the store.

    Args:
        url: The store's folder or URL.
        options: What obstore is told about a URL, as store.options of a configuration.
    """
    problems = integrity.repair(url, options)
    for problem in problems:
        print(problem.what)
    print(f"{len(problems)} problems mended or dropped in {url}" + ("; run `cache` again" if problems else ""))


def store_copy(source: str, target: str, options: dict[str, Any] | None = None) -> None:
    """Bring a copy of a store up to date: what it lacks of the source is added, what it has stays.

    Args:
        source: The store's folder or URL, or a folder of stores.
        target: Where its copy is or will be; a folder of stores where the source is one.
        options: What obstore is told about a URL, as store.options of a configuration.
    """
    for done in copy(source, target, options):
        print(f"{done.url}: {done.shards} files of shards ({done.bytes / 1e6:,.1f} MB), {done.results} results copied")


def store_export(
    url: str,
    *,
    out: str,
    format: Literal["safetensors", "npz"] | None = None,
    arrays: list[str] | None = None,
    layers: list[int] | None = None,
    label: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Write complete prompts' arrays to one file.

    Args:
        url: The store's folder or URL.
        out: The file to write; its suffix, .safetensors or .npz, says what is written.
        format: The same again, safetensors or npz; refused if the suffix says otherwise.
        arrays: Names of the arrays (all when left out).
        layers: Layers of the hook points (all when left out).
        label: Only prompts with this label, such as harmful.
        split: Only prompts of this split, such as train.
        dataset: Only prompts of this dataset.
        options: What obstore is told about a URL, as store.options of a configuration.
    """
    count = export(
        url,
        out,
        format,
        arrays=arrays,
        layers=layers,
        label=label,
        split=split,
        dataset=dataset,
        storage_options=options,
    )
    named = [value for value in (label, split, dataset) if value is not None]
    known = f" that were first cached as {', '.join(named)}" if named else ""
    print(f"{count} prompts{known} written to {out}")
