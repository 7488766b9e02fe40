"""How much of the model's own speed `cache` keeps, what memory it takes, and what the mean difference costs.

    python benchmarks/cache.py

On the demo model, alternating in one run: the Hugging Face model's forward pass over the prompts without its LM head,
and the whole cache loop (planning, forward pass with hooks and next-token logits, durable compressed shards) over the
same length-sorted batches. Then the mean difference from the store that was filled. Then the peak memory of a process
that caches 512 prompts, and of one that caches 4,096.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from refusal_lightning.config import CacheConfig, StoreConfig, TrainerConfig
from refusal_lightning.data import load_dataset
from refusal_lightning.inputs.activations import records_of, store_encoding, store_layout
from refusal_lightning.inputs.prompts import PromptSet, prompt_set
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad, length_batches
from refusal_lightning.stages.cache.inputs import CacheInputs
from refusal_lightning.stages.cache.stage import cache_activations
from refusal_lightning.store import ActivationStore, Shard

CPU = TrainerConfig(accelerator="cpu", progress_bar=False)


def prompt_sets(chat: ChatModel, count: int) -> dict[str, PromptSet]:
    """Half harmful, half harmless: the sample's instructions, numbered, so that there are as many as wanted."""
    sets = {}
    for name in ("harmful_train", "harmless_train"):
        sample = load_dataset(name, instructions_only=True, root="dataset/sample")
        texts = [f"{sample[i % len(sample)]} ({i})" for i in range(count // 2)]
        sets[name] = prompt_set(name, texts, chat)
    return sets


def new_store(folder: Path, chat: ChatModel, config: StoreConfig, tokens: dict[str, list[int]]) -> ActivationStore:
    """An empty store as `cache` makes it."""
    lengths = [len(ids) for ids in tokens.values()]
    return ActivationStore.create_or_open(
        folder,
        chat.identity,
        store_layout(chat, CacheConfig()),
        store_encoding(config),
        planned=len(tokens),
        planned_tokens=sum(lengths),
        longest=max(lengths),
    )


def bare(chat: ChatModel, tokens: dict[str, list[int]], shards: tuple[Shard, ...], batch_size: int) -> float:
    """Seconds of the model's body over the same batches; nothing is kept."""
    body: Any = chat.engine("cpu").model.model
    started = time.perf_counter()
    with torch.inference_mode():
        for shard in shards:
            prompts = [tokens[prompt] for prompt in shard.hashes]
            for rows in length_batches([len(p) for p in prompts], batch_size):
                ids, mask = left_pad([prompts[row] for row in rows])
                body(input_ids=ids, attention_mask=mask, use_cache=False)
    return time.perf_counter() - started


def peak_memory(prompts: int, batch_size: int, compression: str) -> float:
    """GB of memory that a fresh process takes at most to cache so many prompts."""
    command = [sys.executable, __file__, "--peak-of", str(prompts), "--batch-size", str(batch_size)]
    done = subprocess.run([*command, "--compression", compression], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=512, help="prompts per round (default 512)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default 5)")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts per forward pass (default 32)")
    parser.add_argument("--compression", default="lz4", choices=["none", "zstd", "lz4"])
    parser.add_argument("--peak-of", type=int, help="only cache so many prompts and print the peak memory in GB")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure memory too")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    chat = load_chat_model("demo", refusal_tokens=["I"])
    config = StoreConfig(compression=args.compression)
    sets = prompt_sets(chat, args.peak_of or args.prompts)
    tokens = {h: ids for s in sets.values() for h, ids in zip(s.hashes, s.token_ids, strict=True)}
    records = records_of(sets.values())
    chat.engine("cpu")
    with tempfile.TemporaryDirectory() as name:
        if args.peak_of:
            store = new_store(Path(name) / "store", chat, config, tokens)
            cache_activations(CacheInputs(chat, sets, records, store), CPU, args.batch_size)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
            return
        planned = new_store(Path(name) / "planned", chat, config, tokens)
        planned.add_prompts(records)
        bare(chat, tokens, planned.shards, args.batch_size)  # once, to warm up
        body: list[float] = []
        ours: list[float] = []
        for i in range(args.rounds):
            body.append(bare(chat, tokens, planned.shards, args.batch_size))
            store = new_store(Path(name) / str(i), chat, config, tokens)
            started = time.perf_counter()
            cache_activations(CacheInputs(chat, sets, records, store), CPU, args.batch_size)
            ours.append(time.perf_counter() - started)
        means = []
        for _ in range(args.rounds):
            started = time.perf_counter()
            for role in ("harmful_train", "harmless_train"):
                store.mean("resid_pre", sets[role].hashes, positions=range(-chat.n_positions, 0))
            means.append(time.perf_counter() - started)
        stored = sum(path.stat().st_size for path in (Path(name) / "0").rglob("*") if path.is_file())
        limit = store.estimate(len(tokens), sum(map(len, tokens.values())))
    count, n_tokens = len(tokens), sum(map(len, tokens.values()))
    seconds, mean = statistics.median(body), statistics.median(means)
    print(f"{count} prompts, {n_tokens} tokens, batches of {args.batch_size}, {torch.get_num_threads()} threads")
    for what, times in (("bare forward pass", body), ("cache", ours)):
        spread = f"{count / max(times):.2f}-{count / min(times):.2f}"
        print(f"{what:<20} {count / statistics.median(times):8.2f} prompts/s ({spread})")
    print(f"cache / bare         {statistics.median(b / o for b, o in zip(body, ours, strict=True)):8.3f}")
    print(f"stored               {stored / 1e6:8.1f} MB, {stored / limit.bytes:.3f} of the bound, {args.compression}")
    print(f"mean difference      {mean:8.4f} s, {100 * mean / seconds:.3f} % of the forward passes")
    if args.memory:
        few, many = (peak_memory(n, args.batch_size, args.compression) for n in (512, 4096))
        print(f"peak memory          {few:8.3f} GB for 512 prompts, {many:.3f} GB for 4,096: ratio {many / few:.3f}")


if __name__ == "__main__":
    main()
