"""A process that writes to a made-up store, for tests that kill it: ``writer.py URL COUNT [PART PARTS]``.

Says "writing" when it begins, and the number of each shard once it is written; with PART and PARTS it writes every
PARTS-th pending shard only, beginning at PART.
"""

from __future__ import annotations

import sys

from stores import make, records, shard_arrays


def main(url: str, count: int, part: int = 0, parts: int = 1) -> None:
    """Plan ``count`` prompts and write what is pending."""
    store = make(url, compression="none", shard_bytes=2000)
    store.add_prompts(records(range(count)))
    print("writing", flush=True)
    for shard in store.pending()[part::parts]:
        store.write_shard(shard.index, shard_arrays(store.layout, shard))
        print(shard.index, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
