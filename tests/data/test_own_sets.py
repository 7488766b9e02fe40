"""Users' own prompts: files of every format, column mapping, labels, filters; and mistakes in them."""

import csv
import json

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from refusal_lightning.data import draw_instructions, load_dataset, load_dataset_split
from refusal_lightning.errors import UserError

ROWS = [
    {"prompt": "Name a river,\nplease", "kind": "geo", "label": "kept"},
    {"prompt": "Name a “lake”", "kind": "", "label": "kept"},
    {"prompt": " Add 2 and 2\u2028", "kind": "3", "label": "other"},
]
EXPECTED = [
    {"instruction": "Name a river,\nplease", "category": "geo"},
    {"instruction": "Name a “lake”", "category": None},
    {"instruction": " Add 2 and 2\u2028", "category": "3"},
]
COLUMNS = {"instruction": "prompt", "category": "kind"}


def write(path, rows=ROWS):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("name", ["own.json", "own.jsonl", "own.csv", "own.parquet"])
def test_every_format(tmp_path, name):
    file = write(tmp_path / name)
    assert load_dataset(file, columns=COLUMNS) == EXPECTED
    assert load_dataset(file, True, columns={"instruction": "prompt"}) == [row["prompt"] for row in ROWS]
    kept = load_dataset(file, columns=COLUMNS, where={"label": "kept"})
    assert kept == EXPECTED[:2]


def test_plain_text_and_lists_of_texts(tmp_path):
    (tmp_path / "own.txt").write_bytes(b"Name a river\r\n\nName a lake\r\n")
    (tmp_path / "own.json").write_text('["Name a river", "Name a lake"]')
    for name in ("own.txt", "own.json"):
        assert load_dataset(str(tmp_path / name), instructions_only=True) == ["Name a river", "Name a lake"]


def test_the_usual_names_need_no_mapping(tmp_path):
    file = write(tmp_path / "own.jsonl", [{"instruction": "a", "category": 3, "more": []}, {"instruction": "b"}])
    expected = [{"instruction": "a", "category": "3"}, {"instruction": "b", "category": None}]
    assert load_dataset(file) == expected


def test_a_path_from_home_and_from_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own.CSV".lower())
    assert load_dataset("~/own.csv", columns=COLUMNS) == load_dataset("own.csv", columns=COLUMNS) == EXPECTED


def test_splits_of_any_format_and_any_labels(tmp_path):
    (tmp_path / "splits").mkdir()
    for label, suffix in (("flattery", "csv"), ("honest", "jsonl")):
        for split, count in (("train", 6), ("val", 3), ("test", 2)):
            rows = [{"q": f"{label} {split} {i}"} for i in range(count)]
            write(tmp_path / "splits" / f"{label}_{split}.{suffix}", rows)
    columns = {"instruction": "q"}
    expected = [{"instruction": "honest val 0", "category": None}]
    assert load_dataset_split("honest", "val", root=tmp_path, columns=columns)[:1] == expected
    assert load_dataset("honest_val", root=tmp_path, columns=columns)[:1] == expected
    draw = draw_instructions(tmp_path, 4, 2, 42, labels=("flattery", "honest"), columns=columns)
    assert {text.rsplit(" ", 1)[0] for text in draw.harmful_train} == {"flattery train"}
    assert {text.rsplit(" ", 1)[0] for text in draw.harmless_val} == {"honest val"}
    with pytest.raises(UserError, match=r"data.n_val is 4, but flattery_val under .* has 3 rows"):
        draw_instructions(tmp_path, 4, 4, 42, labels=("flattery", "honest"), columns=columns)
    write(tmp_path / "splits" / "honest_val.json", [{"q": "x"}])
    with pytest.raises(UserError, match=r"both .*honest_val.json and honest_val.jsonl"):
        load_dataset("honest_val", root=tmp_path)


def test_a_processed_set_keeps_its_own_columns(tmp_path):
    (tmp_path / "processed").mkdir()
    write(tmp_path / "processed" / "harmbench_test.json", [{"instruction": "x", "category": "c"}])
    assert load_dataset("harmbench_test", root=tmp_path, columns=COLUMNS) == [{"instruction": "x", "category": "c"}]


SECRET = "Never show this"


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        (
            "a.csv",
            f"prompt,kind\n{SECRET},1\n",
            None,
            r"row 0 \(counted from 0\) has no text .*columns are prompt, kind: say which one",
        ),
        ("a.csv", f"prompt,kind\n{SECRET},1\n", {"instruction": "text"}, "no column `text`; its columns are prompt"),
        ("a.csv", f"instruction\n{SECRET}\n", {"category": "kind"}, "no column `kind`"),
        (
            "a.csv",
            f"instruction,kind\n{SECRET},{SECRET},3\n",
            None,
            r"row 0 \(counted from 0\) has more fields than the header",
        ),
        ("a.csv", f"instruction;kind\n{SECRET};1\n", None, "has semicolons between its columns; save it with commas"),
        ("a.csv", f"instruction\tkind\n{SECRET}\t1\n", None, "has tabs between its columns"),
        ("a.csv", f'instruction\n"{SECRET}\n', None, "is not CSV, near line"),
        ("a.csv", "instruction\n", None, "holds no rows"),
        (
            "a.csv",
            f"instruction,kind\n{SECRET},1\n,2\n",
            None,
            r"row 1 \(counted from 0\) has no text in its field `instruction`$",
        ),
        ("a.jsonl", f'{{"instruction": "{SECRET}"}}\n{{"instr', None, r"a.jsonl, line 2, is not JSON"),
        ("a.jsonl", f'{{"instruction": "{SECRET}"}}\n["{SECRET}"]', None, r"row 1 \(counted from 0\) has no text"),
        (
            "a.jsonl",
            f'{{"instruction": "{SECRET}"}}\n{{"instruction": "{SECRET} \\ud83d"}}',
            None,
            r"row 1 \(counted from 0\) has half a character .* in its field `instruction`",
        ),
        (
            "a.json",
            f'[{{"prompt": "{SECRET}", "kind": "hate \\ud83d"}}]',
            COLUMNS,
            r"row 0 \(counted from 0\) has half a character .* in its field `kind`",
        ),
        ("a.json", "[" * 200_000, None, "is nested too deeply"),
        ("a.json", f'{{"instruction": "{SECRET}"}}', None, "holds no rows"),
        ("a.parquet", SECRET, None, r"is not Parquet \(ArrowInvalid\)"),
        ("a.txt", b"\xff\xfe", None, "not UTF-8 text .*; save it as UTF-8"),
        ("a.csv", f"instruction\n{SECRET}\n", {"text": "instruction"}, "text can't be mapped"),
    ],
)
def test_mistakes_are_named_and_no_prompt_is_shown(tmp_path, name, content, columns, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        load_dataset(str(path), columns=columns)
    assert SECRET not in str(error.value) and "\n" not in str(error.value)
    assert str(path) in str(error.value) or "mapped" in message


def test_where_takes_numbers_and_the_files_own_names(tmp_path):
    rows = [{"prompt": "a", "label": 1, "ok": True}, {"prompt": "b", "label": 0, "ok": True}]
    for name in ("own.csv", "own.jsonl"):
        file = write(tmp_path / name, rows)
        kept = load_dataset(file, True, columns={"instruction": "prompt"}, where={"label": 1, "ok": True})
        assert kept == ["a"]
    with pytest.raises(UserError, match="no column `lable`; its columns are prompt, label, ok: `where` takes the file"):
        load_dataset(file, columns={"instruction": "prompt"}, where={"lable": 1})


def test_names_that_are_nothing(tmp_path):
    with pytest.raises(UserError, match=r"dataset file \S*nothing.csv does not exist"):
        load_dataset(str(tmp_path / "nothing.csv"))
    with pytest.raises(UserError, match="did you mean jailbreakbench"):
        load_dataset("jailbreakbensh", root=tmp_path)
    with pytest.raises(UserError, match="`data prepare` makes it"):
        load_dataset("harmbench_test", root=tmp_path)
    with pytest.raises(UserError, match="no row with label = 'gone'"):
        load_dataset(write(tmp_path / "own.csv"), columns=COLUMNS, where={"label": "gone"})
    with pytest.raises(UserError, match="no column `lable`"):
        load_dataset(write(tmp_path / "own.csv"), columns=COLUMNS, where={"lable": "kept"})
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_dataset(str(tmp_path / "folder.json"))
