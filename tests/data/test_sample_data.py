"""The sample instructions: counts, form, no overlap, and nothing out of a benchmark."""

import hashlib
import json
import re

import pytest

from refusal_lightning.data import load_dataset_split

KINDS, SPLITS = ("harmful", "harmless"), {"train": 96, "val": 32, "test": 40}


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


ROWS = {(kind, split): load_dataset_split(kind, split) for kind in KINDS for split in SPLITS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_counts_and_form(kind, split):
    rows = ROWS[kind, split]
    assert len(rows) >= SPLITS[split]
    for row in rows:
        assert set(row) == {"instruction", "category"}
        assert 4 <= len(row["instruction"].split()) <= 20
        assert row["instruction"] == row["instruction"].strip()
        assert re.fullmatch(r"[a-z_]+", row["category"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_has_the_same_categories(kind):
    categories = [{row["category"] for row in ROWS[kind, split]} for split in SPLITS]
    assert categories[0] == categories[1] == categories[2]
    assert len(categories[0]) >= 10


def test_no_instruction_comes_twice_or_nearly():
    words = [set(_normal(row["instruction"]).split()) for rows in ROWS.values() for row in rows]
    alike = max(len(a & b) / len(a | b) for i, a in enumerate(words) for b in words[:i])
    assert alike < 0.7


def test_none_is_a_benchmarks(shared_dir):
    """Digests only: a benchmark's text appears in no message."""

    def digests(texts):
        return {hashlib.sha256(_normal(text).encode()).hexdigest() for text in texts}

    ours = digests(row["instruction"] for rows in ROWS.values() for row in rows)
    for path in (shared_dir / "dataset" / "processed").glob("*.json"):
        shared = len(ours & digests(row["instruction"] for row in json.loads(path.read_text())))
        assert shared == 0, f"{shared} instructions are also in {path.name}"
