"""Texts for the loss: files, streamed Hub sets (the library reads folders in place of the Hub), Alpaca in the authors'
order."""

from __future__ import annotations

import json

import datasets
import pytest

from refusal_lightning.data import hub, texts
from refusal_lightning.data.alpaca import ALPACA_FILE
from refusal_lightning.data.loss_sets import LOSS_SETS, LossSet, load_texts, of_the_baseline
from refusal_lightning.data.texts import Text
from refusal_lightning.errors import UserError


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    rows = [{"text": f"Once {i}", "meta": "x"} for i in range(9)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "require_no_namesake", lambda _: None)  # a folder stands for the Hub's dataset here
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ([{"text": "a b"}, {"text": "c"}], None, [Text("a b"), Text("c")]),
        ([{"prompt": "p", "response": "r", "category": None}], None, [Text("r", "p")]),
        ([{"instruction": "p", "output": "r", "input": ""}], None, [Text("r", "p")]),
        ([{"body": "a"}], {"text": "body"}, [Text("a")]),
        ([{"q": "p", "a": "r", "text": "no"}], {"instruction": "q", "response": "a"}, [Text("r", "p")]),
    ],
)
def test_files_of_either_kind(tmp_path, rows, columns, expected):
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    assert load_texts(str(tmp_path / "texts.json"), 5, tmp_path, columns=columns) == expected
    assert load_texts(str(tmp_path / "texts.json"), 1, tmp_path, columns=columns) == expected[:1]


def test_a_text_file_is_a_text_per_line(tmp_path):
    (tmp_path / "texts.txt").write_text("one line\n\nanother\n")
    assert load_texts(str(tmp_path / "texts.txt"), 5, tmp_path) == [Text("one line"), Text("another")]


def test_streamed_once_and_kept(hub_folder, tmp_path, monkeypatch):
    name = "hub:org/name::train"
    expected = [Text(f"Once {i}") for i in range(4)]
    assert load_texts(name, 4, tmp_path) == expected
    assert load_texts(name, 4, tmp_path, kept=tmp_path / "kept") == expected
    (file,) = (tmp_path / "kept").iterdir()
    assert "meta" not in file.read_text()
    (hub_folder / "train.jsonl").unlink()
    assert load_texts(name, 4, tmp_path, kept=tmp_path / "kept") == expected
    with pytest.raises(UserError, match=r"dataset hub:org/name::train cannot be loaded"):
        load_texts(name, 5, tmp_path, kept=tmp_path / "kept")


def test_kept_texts_are_those_of_their_columns_and_place(hub_folder, tmp_path, monkeypatch):
    """Sets that differ in anything are kept apart: in their columns, or where one's config is another's revision."""
    kept = tmp_path / "kept"
    assert load_texts("hub:org/name::train", 2, tmp_path, kept=kept) == [Text("Once 0"), Text("Once 1")]
    assert load_texts("hub:org/name::train", 2, tmp_path, kept=kept, columns={"text": "meta"}) == [Text("x")] * 2
    pair = {"instruction": "meta", "response": "text"}
    assert load_texts("hub:org/name::train", 1, tmp_path, kept=kept, columns=pair) == [Text("Once 0", "x")]
    monkeypatch.setattr(texts, "hub_rows", lambda hub: [{"text": f"{hub.revision}, {hub.config}, {hub.split}"}])
    names = ("@en::train", ":en:train", ":en-train", "@en:train", "@en-train")
    found = [load_texts(f"hub:org/name{name}", 1, tmp_path, kept=kept) for name in names]
    assert found == [
        [Text(text)]
        for text in (
            "en, None, train",
            "None, en, train",
            "None, en-train, None",
            "en, train, None",
            "en-train, None, None",
        )
    ]


def test_no_more_is_read_than_asked_for(monkeypatch):
    def rows():
        yield {"text": "a"}
        yield {"text": "b"}
        raise ConnectionError("cut off")

    monkeypatch.setattr(hub, "_loaded", lambda hub, streaming: rows())
    assert load_texts("pile", 2, "nowhere") == [Text("a"), Text("b")]
    with pytest.raises(UserError, match=r"dataset hub:monology/pile-uncopyrighted::train cannot be loaded .*cut off"):
        load_texts("pile", 3, "nowhere")


def test_alpaca_without_inputs_in_the_authors_order(tmp_path):
    rows = [{"instruction": f"do {i}", "input": "x" if i % 3 else " ", "output": f"done {i}"} for i in range(60)]
    path = tmp_path / ALPACA_FILE
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    texts = load_texts("alpaca", 8, tmp_path)
    shuffled = [row for row in datasets.Dataset.from_list(rows).shuffle(seed=42) if not row["input"].strip()]
    assert texts == [Text(row["output"], row["instruction"]) for row in shuffled[:8]]
    assert texts != [Text(row["output"], row["instruction"]) for row in rows if not row["input"].strip()][:8]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], None, r"holds no rows"),
        (["a"], {"text": "body"}, r"has no column `body`; its columns are instruction"),
        ([{"instruction": "secret"}], None, r"neither a text nor an instruction with its response; its columns are"),
        ([{"text": "a"}, {"text": None}], None, r"row 1 has no text in its field `text`"),
        ([{"text": "a"}, {"text": "half \ud83d"}], None, r"row 1 has half a character .* in its field `text`"),
        ([{"prompt": "a \ude00", "output": "b"}], None, r"row 0 has half a character .* in its field `prompt`"),
        ([{"text": "a"}], {"category": "x"}, r"either text, or instruction and response; not category"),
    ],
)
def test_mistakes(tmp_path, rows, columns, message):
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=message) as error:
        load_texts(str(tmp_path / "texts.json"), 3, tmp_path, columns=columns)
    assert "secret" not in str(error.value)


def test_no_such_texts(tmp_path):
    with pytest.raises(UserError, match=r"does not exist"):
        load_texts(str(tmp_path / "texts.json"), 3, tmp_path)
    with pytest.raises(UserError, match=r"neither pile nor alpaca"):
        load_texts("piles", 3, tmp_path)


def test_a_set_of_ones_own_is_one_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(LOSS_SETS, "_entries", dict(LOSS_SETS))
    LOSS_SETS.register(
        "birds", LossSet("about birds", lambda request: [Text("a wren"), Text("a tit")][: request.count])
    )
    assert load_texts("birds", 1, tmp_path) == [Text("a wren")]
    assert not of_the_baseline("birds") and of_the_baseline("alpaca_custom_completions")
    with pytest.raises(UserError, match=r"neither pile nor alpaca nor birds, nor a file"):
        load_texts("alpaca_custom_completions", 3, tmp_path)  # its texts are made, and in no place to be read from
