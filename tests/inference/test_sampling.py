"""Instruction files and the draw."""

import json
import random

import pytest

from refusal_lightning.data import draw_instructions, load_dataset, load_dataset_split
from refusal_lightning.errors import UserError


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    (folder / "splits").mkdir(parents=True)
    for kind in ("harmful", "harmless"):
        for split, count in (("train", 20), ("val", 8), ("test", 6)):
            rows = [{"instruction": f"{kind} {split} {i}", "category": "c"} for i in range(count)]
            (folder / "splits" / f"{kind}_{split}.json").write_text(json.dumps(rows))
    return folder


def test_the_draw_is_the_authors(root):
    """Their pipeline: seed the global generator, then sample the four sets in this order, then harmless test."""
    draw = draw_instructions(root, 10, 4, 42)
    random.seed(42)
    expected = [
        random.sample(load_dataset_split(kind, split, instructions_only=True, root=root), n)
        for split, n in (("train", 10), ("val", 4))
        for kind in ("harmful", "harmless")
    ]
    assert [draw.harmful_train, draw.harmless_train, draw.harmful_val, draw.harmless_val] == expected
    assert draw.rng.random() == random.random()


def test_the_draw_leaves_the_global_generator_alone(root):
    random.seed(7)
    expected = random.random()
    random.seed(7)
    draw_instructions(root, 10, 4, 42)
    assert random.random() == expected


def test_more_than_there_is(root):
    with pytest.raises(
        UserError, match=r"data.n_train is 21, but harmful_train under .* has 20 rows; set data.n_train to 20 or less"
    ):
        draw_instructions(root, 21, 4, 42)
    with pytest.raises(UserError, match=r"but harmful_train has 1 rows"):  # wherever they came from
        draw_instructions(root, 2, 1, 42, load=lambda name: ["a"])
    with pytest.raises(UserError, match=r"data.n_val is 9"):
        draw_instructions(root, 20, 9, 42)


def test_rows_and_instructions(root):
    assert load_dataset_split("harmless", "test", root=root)[0] == {"instruction": "harmless test 0", "category": "c"}
    assert load_dataset("harmful_val", instructions_only=True, root=root) == [f"harmful val {i}" for i in range(8)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "is not JSON"),
        ("[{]", "is not JSON"),
        ("[]", "holds no rows"),
        ('{"instruction": "x"}', "holds no rows"),
        ('[{"instruction": "x"}, {"prompt": "y"}]', r"row 1 .* has no text in its field `instruction`"),
        ('[{"instruction": "  "}]', "row 0 .* has no text"),
        ("[3]", "row 0 .* has no text"),
    ],
)
def test_bad_files(root, content, message):
    path = root / "splits" / "harmful_train.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_dataset_split("harmful", "train", root=root)
    assert str(path) in str(error.value)


def test_unknown_names(root):
    with pytest.raises(UserError, match=r"no split harmful_dev"):
        load_dataset_split("harmful", "dev", root=root)
    with pytest.raises(UserError, match=r"'../splits/harmful_val'"):
        load_dataset("../splits/harmful_val", root=root)
