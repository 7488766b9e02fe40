"""What a store is and plans as of now: by its log, or, where there is none yet, by the manifest of format 1."""

from __future__ import annotations

from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.protocol import Backend
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.format import format1, log
from refusal_lightning.store.format.log import Logged
from refusal_lightning.store.format.manifest import Manifest, read_manifest


def current(objects: Backend, known: Logged | None = None) -> Logged | None:
    """The store as of now, ``known`` being how it was before; None where there is no store.

    Raises UserError for what is there and is no store, or of a newer format, StoreError for damage.
    """
    if known is not None and known.digests:
        return log.read(objects, known)
    manifest, error = root(objects)  # before the log, which is never behind it
    found = log.read(objects)
    if manifest is None:
        if found is None and error is not None:
            raise error
        return found
    lacking = len(manifest.segments) - (len(found.manifest.segments) if found else 0)
    if manifest.format == 1 and (found is None or lacking > 0):  # the log may be about to be made
        unchanged = known is not None and known.manifest.segments == manifest.segments
        return known if unchanged else format1.logged(objects, manifest)
    if found is None or lacking > 0:
        what = "all entries" if found is None else f"{lacking} of its entries"
        raise StoreError(
            f"store {objects.url}: {log.FOLDER}, which says what prompts the store holds, lacks {what}; `store repair` "
            "restores them from the coordinate arrays"
        )
    return found


def root(objects: Backend) -> tuple[Manifest | None, UserError | None]:
    """The manifest that the group's attributes hold for zarr's readers, or what is wrong with it."""
    try:
        return read_manifest(objects), None
    except UserError as error:
        return None, error
