"""Padding, batching by length, ids of many prompts, and the division of work."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from refusal_lightning.distributed.work import share_of
from refusal_lightning.inputs.prompts import IdsByHash, prompt_set
from refusal_lightning.models.tokens import left_pad, length_batches, prompt_hash

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=8))
def test_left_pad_keeps_every_prompt_at_the_right_edge(prompts):
    ids, mask = left_pad(prompts, pad_id=5)
    for row, prompt in enumerate(prompts):
        assert ids[row, -len(prompt) :].tolist() == prompt
        assert mask[row].tolist() == [0] * (ids.shape[1] - len(prompt)) + [1] * len(prompt)


@given(LENGTHS, st.integers(1, 16))
def test_length_batches(lengths, batch_size):
    batches = length_batches(lengths, batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) <= batch_size
        assert padded - sum(lengths[i] for i in batch) <= 0.1 * padded + 1e-9


def test_length_batches_fill_up_where_nothing_is_padded():
    assert [len(batch) for batch in length_batches([7] * 20, 8)] == [8, 8, 4]


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares_are_contiguous_and_even(keys, world_size):
    shares = [share_of(keys, rank, world_size) for rank in range(world_size)]
    assert [key for share in shares for key in share] == keys
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_prompt_hash_is_of_the_ids():
    assert prompt_hash([1, 2, 3]) == prompt_hash((1, 2, 3))
    assert prompt_hash([1, 2, 3]) != prompt_hash([12, 3])
    assert len(prompt_hash([])) == 64


def test_ids_of_many_prompts_take_four_bytes_a_token():
    """Lists of Python's numbers take 41; what a prompt itself takes is its hash, text and places."""
    prompts = [[70_000 + (i * j) % 50_000 for j in range(500)] for i in range(400)]
    model: Any = SimpleNamespace(encode=lambda name: list(prompts[int(name)]))
    names = [str(i) for i in range(400)]
    tracemalloc.start()
    try:
        made = prompt_set("many", names, model)
        by_hash = IdsByHash([made, made])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / (400 * 500) < 8
    assert list(made.token_ids) == prompts and made.token_ids[-2:] == prompts[-2:] and made.token_ids[3] == prompts[3]
    assert made.hashes == [prompt_hash(ids) for ids in prompts] == list(by_hash)
    assert [by_hash[h] for h in made.hashes] == prompts
    some = made.take([7, 2])
    assert list(some.token_ids) == [prompts[7], prompts[2]] and some.hashes == [made.hashes[7], made.hashes[2]]
