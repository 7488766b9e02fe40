"""The registry's entries, files written whole, and the page that lists the sources."""

import re
from pathlib import Path

import pytest

from refusal_lightning.data.files import sha256_of_file, write_whole
from refusal_lightning.data.sources import NAMED_SETS, SOURCES
from refusal_lightning.data.splits import HARMFUL_TEST, HARMFUL_TRAIN, HARMFUL_VAL, HARMLESS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_source_is_used_once():
    assert sorted(SOURCES) == sorted(HARMFUL_TEST + HARMFUL_TRAIN + HARMFUL_VAL + HARMLESS)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_an_entry_is_pinned(name):
    source = SOURCES[name]
    assert source.name == name and re.fullmatch("[0-9a-f]{64}", source.sha256) and source.count > 0
    assert source.licence and source.page.startswith("https://")
    for file in source.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "") and file.path.startswith("raw/")
        assert file.urls and all(url.startswith("https://") for url in file.urls)
        # Some address of each file names a commit, so that it stays what it is.
        assert any(re.search("/[0-9a-f]{40}/", url) for url in file.urls)
    if source.hub:
        assert re.fullmatch("[0-9a-f]{40}", source.hub.revision or "")


def test_the_page_lists_them_all():
    page = PAGE.read_text()
    for name, source in SOURCES.items():
        assert source.page in page and source.licence in page and f"| `{name}` | {source.count:,} |" in page
    for name, known in NAMED_SETS.items():
        assert known.page in page and known.licence in page and f"| `{name}` |" in page


def test_the_pages_python_runs(tmp_path, monkeypatch):
    """Each Python example, in one folder that holds the files they name."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"Prompt {i},t,{'flattery' if i % 2 else 'honest'}\n" for i in range(40))
    Path("prompts.csv").write_text("prompt,topic,kind\n" + rows)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    written = sorted(path.name for path in Path("mine/splits").iterdir())
    assert written == [f"{kind}_{split}.json" for kind in ("flattery", "honest") for split in ("test", "train", "val")]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.json"
    assert sha256_of_file(path) is None
    write_whole(path, b"old")
    stamp = path.stat().st_mtime_ns
    write_whole(path, b"old")
    assert path.stat().st_mtime_ns == stamp

    def fail(self, target):
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in path.parent.iterdir()] == ["b.json"]
