"""The compressors of a chunk: blosc, as zarr's own codec of this name does it."""

from __future__ import annotations

import numpy as np
from numcodecs import blosc
from zarr.codecs import BloscCodec

from refusal_lightning.store.format.layout import Compression

_SETTINGS: dict[str, tuple[str, int, str]] = {
    "zstd": ("zstd", 3, "shuffle"),
    "lz4": ("lz4", 5, "bitshuffle"),
}
_SHUFFLE = {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}


def zarr_codec(compression: Compression, itemsize: int) -> BloscCodec | None:
    """The codec as the array's metadata names it; None for no compression."""
    if compression == "none":
        return None
    cname, level, shuffle = _SETTINGS[compression]
    return BloscCodec(cname=cname, clevel=level, shuffle=shuffle, typesize=itemsize, blocksize=0)  # type: ignore[arg-type]


def compress(compression: Compression, chunk: np.ndarray) -> np.ndarray | bytes:
    """A chunk's bytes as they are stored, without the checksum."""
    if compression == "none":
        return chunk.reshape(-1).view(np.uint8)
    cname, level, shuffle = _SETTINGS[compression]
    return blosc.compress(chunk, cname.encode(), level, _SHUFFLE[shuffle], 0)


def decompress(compression: Compression, data: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """The chunk, of the shape and type of ``scratch`` (contiguous), which may be used to hold it.

    Raises ValueError or RuntimeError if the sizes do not agree.
    """
    if compression == "none":
        return data.view(scratch.dtype).reshape(scratch.shape)
    blosc.decompress(data, scratch)
    return scratch
