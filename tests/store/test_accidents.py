"""Every file of a store flipped, cut, emptied, deleted or never copied: right numbers or a named error, then mended."""

from __future__ import annotations

import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from stores import LAYOUT, RAGGED, check, fill, filled, hashes, make, plan_in_format_1, record, records

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, StoreError, repair, verify
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.format import log

ALL = range(16)
KINDS = {"eoi": LAYOUT, "all": RAGGED}
HOW = ("flipped", "cut", "emptied", "deleted")
CASES = [
    *[(kind, "one of them") for kind in KINDS],
    *[pytest.param(kind, how, marks=pytest.mark.slow) for kind in ("eoi", "all", "old eoi", "old all") for how in HOW],
]
OLD_NUMBERS = range(20)


@pytest.fixture(scope="module", autouse=True)
def no_pause():
    patch = pytest.MonkeyPatch()
    patch.setattr(log, "_PAUSE", 0)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """A store of each kind: two additions, a result; of format 1, made by the package before, with a shard pending."""
    folder = tmp_path_factory.mktemp("stores")
    with zipfile.ZipFile(Path(__file__).with_name("format1.zip")) as archive:
        archive.extractall(folder / "old")
    made = {f"old {kind}": folder / "old" / kind for kind in KINDS}
    for kind, layout in KINDS.items():
        store = filled(folder / kind, range(10), layout=layout, longest=7, shard_bytes=8000)
        store.add_prompts(records(ALL))
        fill(store)
        store.save_result("scores", {"kl": np.array([[0.5, np.nan]])}, {"version": 1})
        made[kind] = folder / kind
    return made


def _files(url: Path) -> list[Path]:
    return sorted(path.relative_to(url) for path in url.rglob("*") if path.is_file())


def _harm(path: Path, how: str, seed: int) -> None:
    data = path.read_bytes()
    place = random.Random(seed).randrange(len(data))
    match how:
        case "flipped":
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << seed % 8)]) + data[place + 1 :])
        case "cut":
            path.write_bytes(data[:place] or data[:1])
        case "emptied":
            path.write_bytes(b"")
        case "deleted":
            path.unlink()


def _numbers(kind: str) -> range:
    return OLD_NUMBERS if kind.startswith("old") else ALL


def _right_or_named(url: Path, kind: str) -> None:
    """Whatever is said to be complete is right, or one line says what is damaged."""
    try:
        store = ActivationStore.open(url)
        prompts = store.prompts
        assert set(prompts.hash) <= set(hashes(_numbers(kind)))
        whole = [number for number in _numbers(kind) if record(number).hash in prompts.hashes(complete=True)]
        for label, rest in (("harmful", 0), ("harmless", 1)):
            assert set(prompts.hashes(label=label)) <= set(hashes(n for n in _numbers(kind) if n % 2 == rest))
        if whole:
            check(store, whole)
        found = store.load_result("scores")
        if found is not None:
            np.testing.assert_array_equal(found[0]["kl"], [[0.5, np.nan]])
            assert found[1] == {"version": 1}
    except (StoreError, UserError) as error:
        assert "\n" not in str(error)


def _mended(url: Path, kind: str) -> None:
    """After `repair` nothing is wrong but what is pending, and that can be computed."""
    repair(url)
    assert [problem.what for problem in verify(url) if not problem.missing] == []
    store = make(url, KINDS[kind.removeprefix("old ")])
    assert store.add_prompts(records(_numbers(kind))) == 0
    fill(store)
    check(ActivationStore.open(url), _numbers(kind))
    seen = np.asarray(zarr.open_array(url, path="prompt", mode="r")[...])
    assert seen[store.prompts.row].tolist() == store.prompts.hash.tolist()


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_an_accident(kind, how, stores, tmp_path):
    pending = len(verify(stores[kind]))
    for seed, file in enumerate(_files(stores[kind])):
        if (kind, how) == ("all", "one of them") and file.parts[0] not in ("token_start", "resid_pre"):
            continue  # as in the other kind
        url = shutil.copytree(stores[kind], tmp_path / "s")
        _harm(url / file, HOW[seed % 4] if how == "one of them" else how, seed)
        _right_or_named(url, kind)
        assert len(verify(url)) > pending, f"{file} {how}: nobody sees it"
        _mended(url, kind)
        shutil.rmtree(url)


@pytest.mark.parametrize("kind", ["eoi", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", ["by name", "backwards", "data first"])
def test_a_copy_cut_short(kind, order, stores, tmp_path):
    """Readable, or named as no store, or as damaged and mended; whatever is then computed is right."""
    files = _files(stores[kind])
    if order == "backwards":
        files = files[::-1]
    if order == "data first":
        files = sorted(files, key=lambda file: (file.parts[0] == "prompt", file.name == "zarr.json", str(file)))
    every = 3 if order == "data first" else 5
    for count in range(1, len(files), every):
        url = tmp_path / "s"
        for file in files[:count]:
            (url / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(stores[kind] / file, url / file)
        _right_or_named(url, kind)
        try:
            repair(url)
        except UserError as error:
            assert "no activation store" in str(error) or "copy" in str(error)
        else:
            assert [problem for problem in verify(url) if not problem.missing] == []
        store = make(url, KINDS[kind], longest=7)
        store.add_prompts(records(ALL))
        _right_or_named(url, kind)
        fill(store)
        check(ActivationStore.open(url), ALL)
        shutil.rmtree(url)


@pytest.mark.parametrize("kind", ["old eoi", "old all"])
def test_a_store_of_format_1(kind, stores, tmp_path):
    """It is read and filled as it is; the first addition gives it a log, in which nothing has moved."""
    url = shutil.copytree(stores[kind], tmp_path / "s")
    before = {file: (url / file).read_bytes() for file in _files(url)}
    store = make(url, KINDS[kind.removeprefix("old ")])
    assert store.manifest["format"] == 1
    (shard,) = store.pending()
    rows = store.prompts.row.tolist()
    assert store.add_prompts(records(OLD_NUMBERS)) == 0
    assert {file: (url / file).read_bytes() for file in _files(url)} == before
    fill(store)
    check(ActivationStore.open(url), OLD_NUMBERS)
    assert verify(url) == []
    reader = ActivationStore.open(url)
    assert store.add_prompts(records(range(25)), {"packages": {"torch": "2"}}) == 5
    assert store.manifest["format"] == 2 and len(store.manifest["segments"]) == 3
    fill(store)
    for one in (store, reader, ActivationStore.open(url)):
        check(one, range(25))
        assert one.prompts.row.tolist()[: len(rows)] == rows
    assert verify(url) == []
    assert all(
        (url / file).read_bytes() == data
        for file, data in before.items()
        if file.name.startswith("c.") and file.parts[0] in store.layout.array_names
    )
    assert shard.index < store.manifest["unbound_shards"]


def test_a_log_half_made_from_format_1(stores, tmp_path, monkeypatch):
    """Killed after any of its entries: the store is read as it was, and the next addition makes the rest."""
    for entries in range(3):
        url = shutil.copytree(stores["old eoi"], tmp_path / str(entries))
        create = LocalBackend.create
        made: list[str] = []

        def some(backend, key, data, made=made, entries=entries, create=create):
            if len(set(made)) == entries and key not in made:
                raise KeyboardInterrupt
            made.append(key)
            return create(backend, key, data)

        with monkeypatch.context() as patch:
            patch.setattr(LocalBackend, "create", some)
            with pytest.raises(KeyboardInterrupt):
                ActivationStore.open(url).add_prompts(records(range(25)))
        _right_or_named(url, "old eoi")
        assert len(ActivationStore.open(url).prompts) == 20
        store = make(url)
        assert store.add_prompts(records(range(25))) == 5
        fill(store)
        check(ActivationStore.open(url), range(25))
        assert verify(url) == []


def test_an_older_version_plans_beside_a_log_that_was_begun(stores, tmp_path, monkeypatch):
    """Killed between the log and what older versions see of it: the log is gone on with, nothing is stuck."""
    url = shutil.copytree(stores["old eoi"], tmp_path / "s")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log, "append", die)
        with pytest.raises(KeyboardInterrupt):
            ActivationStore.open(url).add_prompts(records(range(25)))
    plan_in_format_1(url, range(30, 35))
    assert len(ActivationStore.open(url).prompts) == 25
    store = make(url)
    assert store.add_prompts(records(range(40))) == 15
    fill(store)
    check(ActivationStore.open(url), range(40))
    assert verify(url) == []
