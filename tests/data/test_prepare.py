"""`data prepare` on made-up sources: what it writes, what a bad server does to it, and that a rerun continues."""

import hashlib
import itertools
import json

import pytest
from moody_server import IMPATIENT, QUICK

from refusal_lightning.data import hub, load_dataset, load_dataset_split, prepare
from refusal_lightning.data.prepare_config import PrepareConfig, data_prepare
from refusal_lightning.errors import UserError

ALPACA = "raw/alpaca_data.json"
SPLITS = [f"{kind}_{split}" for kind in ("harmful", "harmless") for split in ("train", "val", "test")]


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(root, name):
    return json.loads((root / f"{name}.json").read_text())


@pytest.mark.parametrize("how", ["folder", "url"])
def test_what_it_writes(world, tmp_path, serve, how):
    out = tmp_path / "out"
    mirror = world.mirror if how == "folder" else serve(world.mirror).url + "/"
    counts = prepare.prepare(out, mirror, progress=False)
    for name, rows in world.processed.items():
        assert (out / "processed" / f"{name}.json").read_text() == json.dumps(rows, indent=4)
    raw = digests(out / "raw")
    assert raw == digests(world.mirror / "raw")
    splits = {name: read(out / "splits", name) for name in SPLITS}
    assert counts == {name: len(rows) for name, rows in splits.items()}
    assert {path.name for path in out.iterdir()} == {"raw", "processed", "splits"}
    sets = world.processed
    held = [*sets["jailbreakbench"], *sets["harmbench_test"], *sets["strongreject"]]
    assert splits["harmful_test"] == held
    tested = {row["instruction"] for row in held}
    assert splits["harmful_val"] == [row for row in sets["harmbench_val"] if row["instruction"] not in tested]
    assert 0 < len(splits["harmful_val"]) < len(sets["harmbench_val"])
    texts = {row["instruction"] for row in [*held, *splits["harmful_val"]]}
    rest = [r for name in ("malicious_instruct", "tdc2023") for r in sets[name] if r["instruction"] not in texts]
    assert len(rest) < 21 and splits["harmful_train"][117:] == rest
    drawn = splits["harmful_train"][:117]
    assert all(row in sets["advbench"] and row["instruction"] not in texts for row in drawn)
    assert sum(map(len, (splits[f"harmless_{s}"] for s in ("train", "val", "test")))) == 66
    assert [len(splits[f"harmless_{s}"]) for s in ("train", "val", "test")] == [39, 13, 14]
    for one, other in itertools.combinations(SPLITS, 2):
        assert not {r["instruction"] for r in splits[one]} & {r["instruction"] for r in splits[other]}
    assert load_dataset_split("harmful", "val", root=out) == splits["harmful_val"]
    assert load_dataset("jailbreakbench", root=out) == sets["jailbreakbench"]


def test_two_at_once_do_not_share_half_fetched_files(world, tmp_path, serve, monkeypatch):
    """The second one says so; the first one goes on, and after it the folder is free."""
    told = []

    def second(name):
        with pytest.raises(UserError, match=r"another `data prepare` is at work in .*out"):
            prepare.prepare(tmp_path / "out", world.mirror, progress=False)
        told.append(name)

    real = prepare.download
    monkeypatch.setattr(prepare, "download", lambda *a: (told or second(a[0]), real(*a)))
    first = prepare.prepare(tmp_path / "out", serve(world.mirror).url, progress=False)
    assert told
    assert prepare.prepare(tmp_path / "out", world.mirror, progress=False) == first


def test_same_bytes_everywhere(world, tmp_path, serve):
    """The splits' digests are written down here: no machine, Python or order of fetching changes them."""
    prepare.prepare(tmp_path / "a", world.mirror, progress=False)
    prepare.prepare(tmp_path / "b", serve(world.mirror).url, progress=False)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    splits = digests(tmp_path / "a" / "splits")
    assert hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()[:16] == "6be27144a8362462"
    prepare.prepare(tmp_path / "a", world.mirror, seed=7, progress=False)
    other = digests(tmp_path / "a" / "splits")
    assert {name for name in splits if splits[name] != other[name]} == {
        "harmful_train.json",
        "harmless_train.json",
        "harmless_val.json",
        "harmless_test.json",
    }


def test_a_second_run_fetches_nothing(world, tmp_path, serve):
    server = serve(world.mirror)
    prepare.prepare(tmp_path / "out", server.url, progress=False)
    before = digests(tmp_path / "out")
    server.requests.clear()
    (tmp_path / "out" / "splits" / "harmful_val.json").unlink()
    prepare.prepare(tmp_path / "out", server.url, progress=False)
    assert not server.requests and digests(tmp_path / "out") == before
    # What is not right any more is made again, from the raw file that is still right.
    (tmp_path / "out" / "processed" / "strongreject.json").write_text("[]")
    prepare.prepare(tmp_path / "out", server.url, progress=False)
    assert not server.requests and digests(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("path", "mood"),
    [
        *(("raw/harmbench_test.csv", mood) for mood in ("500", "404", "drip", "close", "wrong", "other_length")),
        *((ALPACA, mood) for mood in ("500", "404", "hang", "wrong", "unannounced")),
    ],
)
def test_a_bad_server_gives_one_line_and_a_rerun_continues(world, tmp_path, serve, monkeypatch, path, mood):
    server = serve(world.mirror)
    server.always[path] = mood
    monkeypatch.setattr(prepare, "PATIENCE", IMPATIENT if mood in ("hang", "drip") else QUICK)
    with pytest.raises(UserError) as error:
        prepare.prepare(tmp_path / "out", server.url, progress=False)
    message = str(error.value)
    assert path in message
    assert message.startswith(("HarmBench, test", "Alpaca")) and "run the same command again" in message
    assert "\n" not in message and not any(text in message for text in world.text())
    assert not (tmp_path / "out" / "splits").exists()
    # Only a server that answers as it should is asked for another form.
    assert ("processed/alpaca.json" in [asked for asked, _ in server.requests]) == ((path, mood) == (ALPACA, "404"))
    assert not (tmp_path / "out" / "processed" / "harmbench_test.json").exists() or "alpaca" in path
    server.always.clear()
    server.requests.clear()
    monkeypatch.setattr(prepare, "PATIENCE", QUICK)
    prepare.prepare(tmp_path / "out", server.url, progress=False)
    assert "raw/advbench.csv" not in [asked for asked, _ in server.requests]
    prepare.prepare(tmp_path / "whole", world.mirror, progress=False)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_server_that_stumbles_on_every_file(world, tmp_path, serve):
    server = serve(world.mirror)
    for file in (world.mirror / "raw").iterdir():
        server.moods[f"raw/{file.name}"] = ["500", "truncated"]
    prepare.prepare(tmp_path / "out", server.url, progress=False)
    prepare.prepare(tmp_path / "whole", world.mirror, progress=False)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert any(asked for _, asked in server.requests)


@pytest.mark.parametrize("form", ["processed", "saved", "reserialised"])
def test_the_forms_of_alpaca(world, tmp_path, serve, form):
    raw = world.mirror / "raw" / "alpaca_data.json"
    tasks = json.loads(raw.read_text())
    raw.unlink()
    if form == "processed":
        (world.mirror / "processed").mkdir()
        text = json.dumps(world.processed["alpaca"], indent=4)
        (world.mirror / "processed" / "alpaca.json").write_text(text)
    elif form == "saved":
        (world.mirror / "raw" / "alpaca.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))
    else:
        raw.write_text(json.dumps(tasks, indent=1))
    for out, mirror in (("a", world.mirror), ("b", serve(world.mirror).url)):
        prepare.prepare(tmp_path / out, mirror, progress=False)
        assert read(tmp_path / out / "processed", "alpaca") == world.processed["alpaca"]


def test_the_hub_comes_first_where_a_source_is_on_it(world, tmp_path, monkeypatch, serve):
    tasks = json.loads((world.mirror / "raw" / "alpaca_data.json").read_text())
    _sources_at(serve(world.mirror), monkeypatch)
    asked = []

    def load_hub(wanted):
        asked.append(wanted.repo)
        return tasks if wanted.repo == "tatsu-lab/alpaca" else [{"Goal": "Another text", "Category": "c"}]

    monkeypatch.setattr(hub, "load_hub", load_hub)
    prepare.prepare(tmp_path / "out", progress=False)
    assert asked == ["JailbreakBench/JBB-Behaviors", "tatsu-lab/alpaca"]
    # The Hub's JailbreakBench was another one than the paper's: the file was taken.
    assert read(tmp_path / "out" / "processed", "jailbreakbench") == world.processed["jailbreakbench"]
    assert read(tmp_path / "out" / "processed", "alpaca") == world.processed["alpaca"]
    assert not (tmp_path / "out" / "raw" / "alpaca_data.json").exists()
    # What it saved is a mirror.
    prepare.prepare(tmp_path / "again", tmp_path / "out", progress=False)
    assert digests(tmp_path / "again" / "splits") == digests(tmp_path / "out" / "splits")


def _sources_at(server, monkeypatch):
    """The registry with both places of each file on the server: the publisher's gone, the copy there."""
    for name, source in prepare.SOURCES.items():
        files = tuple(
            prepare.replace(file, urls=(f"{server.url}/gone/{name}", f"{server.url}/{file.path}"))
            for file in source.files
        )
        monkeypatch.setitem(prepare.SOURCES, name, prepare.replace(source, files=files))


def test_without_the_hub_the_files_are_taken(world, tmp_path, monkeypatch, serve):
    server = serve(world.mirror)
    _sources_at(server, monkeypatch)

    def load_hub(wanted):
        raise UserError(f"dataset {wanted} cannot be loaded")

    monkeypatch.setattr(hub, "load_hub", load_hub)
    prepare.prepare(tmp_path / "out", progress=False)
    prepare.prepare(tmp_path / "whole", world.mirror, progress=False)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    server.always["raw/alpaca_data.json"] = "500"
    with pytest.raises(UserError) as error:
        prepare.prepare(tmp_path / "other", progress=False)
    for part in ("hub:tatsu-lab/alpaca@", "gone/alpaca: HTTP 404", "HTTP 500", "--mirror"):
        assert part in str(error.value)


def test_a_mirror_of_other_rows_is_refused(world, tmp_path):
    (world.mirror / "raw" / "jailbreakbench.csv").write_text(",Goal,Category\n0,Hello,c\n")
    with pytest.raises(UserError, match=r"its 1 rows are not the paper's 2 .*no such file") as error:
        prepare.prepare(tmp_path / "out", world.mirror, progress=False)
    assert "Hello" not in str(error.value)
    assert not (tmp_path / "out" / "processed" / "jailbreakbench.json").exists()


def test_given_splits_are_taken_as_they_are(world, tmp_path):
    prepare.prepare(tmp_path / "first", world.mirror, seed=3, progress=False)
    given = tmp_path / "first" / "splits"
    path = given / "harmful_val.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:2]))
    counts = prepare.prepare(tmp_path / "out", world.mirror, splits=given, progress=False)
    assert counts["harmful_val"] == 2 and digests(tmp_path / "out" / "splits") == digests(given)
    (given / "harmless_val.json").write_bytes((given / "harmful_val.json").read_bytes())
    with pytest.raises(UserError, match="row 0 of harmless_val is in harmful_val too") as error:
        prepare.prepare(tmp_path / "new", world.mirror, splits=given, progress=False)
    assert not any(text in str(error.value) for text in world.text())
    (given / "harmless_val.json").unlink()
    with pytest.raises(UserError, match=r"--splits: .*harmless_val.json cannot be read"):
        prepare.prepare(tmp_path / "new", world.mirror, splits=given, progress=False)
    # All of that is seen before anything is fetched.
    assert not (tmp_path / "new").exists()


def test_mistakes(world, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--mirror: '/nowhere' is neither a folder nor a URL"):
        prepare.prepare(tmp_path / "out", "/nowhere", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out: cannot write in"):
        prepare.prepare(tmp_path / "file", world.mirror, progress=False)
    monkeypatch.setattr(prepare, "SPACE", 1 << 60)
    with pytest.raises(UserError, match="of free space"):
        prepare.prepare(tmp_path / "out", world.mirror, progress=False)


def test_the_command(world, tmp_path, caplog):
    out = str(tmp_path / "out")
    caplog.set_level("INFO", "refusal_lightning")
    data_prepare(PrepareConfig(out=out, mirror=str(world.mirror)))
    assert f"{out}/splits/harmless_train.json  39 rows" in caplog.text and "data.root" in caplog.text
    for wrong in ({"out": " "}, {"mirror": ""}, {"splits": ""}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
            PrepareConfig(**wrong)
