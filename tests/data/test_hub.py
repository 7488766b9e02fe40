"""Sets by hub name and by registry name, through the datasets library, which here reads folders in place of the Hub."""

import datasets
import pytest

from refusal_lightning.data import datasets as package_datasets
from refusal_lightning.data import hub, load_dataset
from refusal_lightning.data.hub import HubSet, load_hub, parse_hub, require_no_namesake
from refusal_lightning.data.sources import NAMED_SETS
from refusal_lightning.errors import UserError

CARD = """---
configs:
- config_name: short
  data_files:
  - {split: train, path: short-train.csv}
  - {split: test, path: short-test.csv}
- config_name: one
  data_files:
  - {split: probe, path: one.csv}
---
"""


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A folder org/name here: the library takes it in place of the Hub's dataset of this name."""
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "short-train.csv").write_text("prompt,kind\nName a river,geo\n")
    (folder / "short-test.csv").write_text("prompt,kind\nName a lake,geo\nName a hill,\n")
    (folder / "one.csv").write_text("prompt,label\nCount,safe\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "require_no_namesake", lambda _: None)  # a folder stands for the Hub's dataset here
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def test_names():
    assert parse_hub("hub:a/b") == HubSet("a/b")
    assert parse_hub("hub:a/b:c") == HubSet("a/b", "c")
    assert parse_hub("hub:a/b@1f:c:d") == HubSet("a/b", "c", "d", "1f")
    assert parse_hub("hub:a/b::d") == HubSet("a/b", None, "d")
    for name in ("hub:a/b", "hub:a/b:c", "hub:a/b@1f:c:d", "hub:a/b::d"):
        assert str(parse_hub(name)) == name
    for name in ("hub:", "hub:a/b/c", "hub:a/", "hub:a/b:c:d:e"):
        with pytest.raises(UserError, match="is not of the form hub:org/name"):
            parse_hub(name)


def test_rows_of_a_config_and_split(hub_folder):
    columns = {"instruction": "prompt", "category": "kind"}
    rows = load_dataset("hub:org/name:short:train", columns=columns)
    assert rows == [{"instruction": "Name a river", "category": "geo"}]
    rows = load_dataset("hub:org/name:short:test", columns=columns)
    assert rows == [
        {"instruction": "Name a lake", "category": "geo"},
        {"instruction": "Name a hill", "category": None},
    ]
    # The only split need not be named.
    assert load_dataset("hub:org/name:one", True, columns={"instruction": "prompt"}) == ["Count"]


def test_mistakes(hub_folder):
    with pytest.raises(UserError, match=r"has the splits train, test: name one, as in hub:org/name:short:train"):
        load_dataset("hub:org/name:short")
    with pytest.raises(UserError, match=r"hub:org/name:long cannot be loaded \(ValueError: BuilderConfig 'long'"):
        load_dataset("hub:org/name:long")
    with pytest.raises(UserError, match=r"hub:org/none:a:b cannot be loaded .*connection") as error:
        load_dataset("hub:org/none:a:b")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"dataset hub:org/name:one: row 0 .*has no text .* columns are prompt, label"):
        load_dataset("hub:org/name:one")


def test_class_labels_by_name(monkeypatch):
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "label": datasets.ClassLabel(names=["safe", "not"])}
    )
    made = datasets.Dataset.from_dict({"prompt": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: made)
    assert [row["label"] for row in load_hub(HubSet("a/b"))] == ["not", "safe", None]


@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_over_refusal_sets_by_name(name, tmp_path, monkeypatch):
    known = NAMED_SETS[name]
    asked = []

    def load(hub):
        asked.append(hub)
        row = {"type": "t", "category": "c"}
        return [{**row, "prompt": "p0", "label": "safe"}, {**row, "prompt": "p1", "label": "unsafe"}]

    monkeypatch.setattr(package_datasets, "load_hub", load)
    rows = load_dataset(name, root=tmp_path)
    kept = {"xstest": ["p0"], "xstest_unsafe": ["p1"]}.get(name, ["p0", "p1"])
    assert [row["instruction"] for row in rows] == kept
    assert {row["category"] for row in rows} == {"t" if name.startswith("xs") else "c"}
    assert asked == [known.hub] and len(known.hub.revision or "") == 40
    # A file of this name under processed/ comes first, for machines without a connection.
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed" / f"{name}.json").write_text('[{"instruction": "own"}]')
    assert load_dataset(name, True, root=tmp_path) == ["own"] and len(asked) == 1


@pytest.mark.parametrize("name", ["hub:org/name@1f:short:train", "hub:org/name:short:test"])
def test_a_folder_of_the_same_name_is_not_taken_for_the_dataset(hub_folder, monkeypatch, name):
    """The library reads it, whatever the commit that is asked for."""
    monkeypatch.setattr(hub, "require_no_namesake", require_no_namesake)
    with pytest.raises(UserError, match="'org/name' is also a folder or file where you work"):
        load_dataset(name, columns={"instruction": "prompt"})
