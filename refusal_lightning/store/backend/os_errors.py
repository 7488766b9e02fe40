"""Errors of the file system, said in the words of a person who wants to continue."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from refusal_lightning.errors import UserError
from refusal_lightning.store.errors import StoreError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your disk quota is used up"}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def translate_os_errors(url: str, key: str, doing: Literal["read", "written"] = "written") -> Iterator[None]:
    """Turn an OSError into StoreError (full disk, failing disk) or UserError (not allowed) with one clear line.

    FileNotFoundError passes when reading.
    """
    try:
        yield
    except OSError as error:
        if doing == "read" and isinstance(error, FileNotFoundError):
            raise
        if error.errno in _FULL:
            raise StoreError(
                f"{_FULL[error.errno]} while writing {key} of store {url}; everything written before is kept: free "
                "some space and start again to continue"
            ) from error
        if error.errno in _DENIED:
            raise UserError(
                f"store {url} cannot be {doing} ({error.strerror}: {error.filename or key}); change the permissions, "
                "or choose another place"
            ) from error
        if isinstance(error, FileNotFoundError):  # a file system that makes no folders, such as /proc
            raise UserError(f"store {url} cannot be created there; choose another place for the store") from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise UserError(f"store {url} is not a folder; choose another place for the store") from error
        raise StoreError(f"{key} of store {url} could not be {doing}: {error.strerror or error}") from error
