"""What a store is and plans as of now: by its log, or, where there is none yet, by the manifest of format 1."""

from __future__ import annotations

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import coordinates, format1, log
from refusal_lightning.store.format.layout import Layout
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest, read_manifest, require_same_maker


def current(backend: Backend, known: Logged | None = None) -> Logged | None:
    """The store as of now, ``known`` being how it was before; None where there is no store.

    Raises UserError for what is there and is no store, or of a newer format, StoreError for damage.
    """
    if known is not None and known.digests:
        return log.read(backend, known)
    manifest, error = root(backend)  # before the log, which is never behind it
    found = log.read(backend)
    if manifest is None:
        if found is None and error is not None:
            raise error
        return found
    lacking = len(manifest.segments) - (len(found.manifest.segments) if found else 0)
    if manifest.format == 1 and (found is None or lacking > 0):  # the log may be about to be made
        unchanged = known is not None and known.manifest.segments == manifest.segments
        return known if unchanged else format1.logged(backend, manifest)
    if found is None or lacking > 0:
        what = "all entries" if found is None else f"{lacking} of its entries"
        raise StoreError(
            f"store {backend.url}: {log.FOLDER}, which says what prompts the store holds, lacks {what}; `store repair` "
            "restores them from the coordinate arrays"
        )
    return found


def root(backend: Backend) -> tuple[Manifest | None, UserError | None]:
    """The manifest that the group's attributes hold for zarr's readers, or what is wrong with it."""
    try:
        return read_manifest(backend), None
    except UserError as error:
        return None, error


def existing(backend: Backend) -> Logged:
    """The store that is there. Raises UserError if there is none."""
    logged = current(backend)
    if logged is None:
        raise UserError(f"there is no activation store at {backend.url}")
    return logged


def existing_or_created(backend: Backend, manifest: Manifest) -> Logged:
    """The store that is there, or one made by this manifest. Raises UserError if the one there is another's."""
    logged = current(backend)
    if logged is None:
        require_empty_place(backend, manifest.layout)
        log.create(backend, manifest)
        logged = existing(backend)
    require_same_maker(logged.manifest, manifest.identity, manifest.layout, backend.url)
    return logged


def require_empty_place(backend: Backend, layout: Layout) -> None:
    """A folder with other things in it, or with a store that lost its manifest, does not become a store."""
    copy = format1.manifest_copy(backend)
    if copy is not None and copy.segments:
        raise UserError(
            f"{backend.url} holds an activation store that has lost its zarr.json: `store repair {backend.url}` "
            "restores it"
        )
    known = {*coordinates.PER_PROMPT, *layout.array_names, "layer", "position", "token", "token_start", "results"}
    foreign = [name for name in backend.folders("") if name not in known]
    foreign += [name for name in backend.sizes("") if not name.endswith(".partial")]
    if foreign and not log.numbers(backend):  # else another process has made the store at this moment
        raise UserError(
            f"{backend.url} holds other things ({', '.join(sorted(foreign)[:3])}): choose an empty place for the store"
        )
