"""Errors of the file system, said in the words of a person who wants to continue."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from refusal_lightning.errors import UserError
from refusal_lightning.store.errors import StoreError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your disk quota is used up"}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def explained(url: str, key: str) -> Iterator[None]:
    """Turn an OSError of a write into StoreError (full disk) or UserError (not allowed) with one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreError(
                f"{_FULL[error.errno]} while writing {key} of store {url}; everything written before is kept: free "
                "some space and start again to continue"
            ) from error
        if error.errno in _DENIED:
            raise UserError(
                f"store {url} cannot be written ({error.strerror}: {error.filename or key}); give write permission or "
                "choose another place"
            ) from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise UserError(f"store {url} is not a folder; choose another place for the store") from error
        raise StoreError(f"could not write {key} of store {url}: {error.strerror or error}") from error
