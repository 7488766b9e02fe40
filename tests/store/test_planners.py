"""Several processes plan at once, die at any step, lose replies: nothing that one has committed is lost or moved."""

from __future__ import annotations

import errno
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_proxy import s3_proxy
from stores import LAYOUT, check, fill, filled, hashes, make, record, records, shard_arrays

from refusal_lightning.errors import UserError
from refusal_lightning.store import ActivationStore, Layout, StoreError, opening, repair, verify
from refusal_lightning.store.backend import local
from refusal_lightning.store.backend.local import LocalBackend
from refusal_lightning.store.backend.open import open_backend
from refusal_lightning.store.format import log

SMALL = Layout(("resid_pre",), (0,), (-1,), d_model=4)
STEPS = ("read", "write", "create", "delete", "sizes", "sweep")
MINE, THEIRS = range(5, 12), range(9, 16)


class Killed(BaseException):
    """What no code may catch."""


class Stepwise:
    """A store's objects that do something of a test's own right before a step."""

    def __init__(self, backend: Any, before: Callable[[int], None]) -> None:
        self._backend, self._before, self.steps = backend, before, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if name not in STEPS:
            return method

        def step(*args: Any) -> Any:
            self._before(self.steps)
            self.steps += 1
            return method(*args)

        return step


def _planner(url: Path, before: Callable[[int], None]) -> tuple[ActivationStore, Stepwise]:
    store = ActivationStore.open(url)
    store._state.backend = stepwise = Stepwise(store._state.backend, before)
    return store, stepwise


def _begun(url: Path) -> Path:
    store = make(url, SMALL, shard_bytes=50)
    store.add_prompts(records(range(5)))
    fill(store)
    return url


def _check_whole(url: Path, numbers: Any) -> None:
    """All of these are planned once, can be written and read, and a zarr reader sees the same."""
    store = make(url, SMALL)
    fill(store)
    assert sorted(store.prompts.hashes()) == sorted(hashes(numbers))
    check(ActivationStore.open(url), list(numbers))
    seen = np.asarray(zarr.open_array(url, path="prompt", mode="r")[...])
    assert seen[store.prompts.row].tolist() == store.prompts.hash.tolist()
    assert verify(url) == []


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> int:
    """How many steps an addition takes."""
    store, stepwise = _planner(_begun(tmp_path_factory.mktemp("count") / "s"), lambda step: None)
    store.add_prompts(records(MINE))
    return stepwise.steps


@pytest.mark.parametrize("part", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_another_planner_at_any_step(part, steps, tmp_path):
    """The other plans its prompts, some of which are ours too, right before each of our steps."""
    for at in range(steps) if part == "all" else (*range(6), steps // 2, steps - 2, steps - 1):
        url = _begun(tmp_path / str(at))
        added: list[int] = []

        def other(step: int, at: int = at, url: Path = url, added: list[int] = added) -> None:
            if step == at:
                added.append(ActivationStore.open(url).add_prompts(records(THEIRS)))

        store, _ = _planner(url, other)
        added.append(store.add_prompts(records(MINE)))
        assert sum(added) == 11
        _check_whole(url, range(16))


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_loser_dies_at_any_step(data, steps):
    """Killed at any step, the other having planned before any earlier one: what the other committed stays."""
    with tempfile.TemporaryDirectory() as folder:
        died = data.draw(st.integers(0, steps - 1))
        at, planned = data.draw(st.integers(0, died)), []
        url = _begun(Path(folder, "s"))

        def before(step: int) -> None:
            if step == at:
                planned.append(ActivationStore.open(url).add_prompts(records(THEIRS)))
            if step == died:
                raise Killed

        store, _ = _planner(url, before)
        with pytest.raises(Killed):
            store.add_prompts(records(MINE))
        assert planned in ([7], [4])  # before or after our own
        known = ActivationStore.open(url).prompts.hashes()
        assert set(hashes([*range(5), *THEIRS])) <= set(known)
        make(url, SMALL).add_prompts(records(MINE))
        _check_whole(url, range(16))


def test_many_steps_of_two_planners(tmp_path):
    """Both go step by step in turn, in several rhythms."""
    for rhythm in (1, 3):
        url = _begun(tmp_path / str(rhythm))
        turn = threading.Condition()
        moves = itertools.cycle([0] * rhythm + [1])
        state = {"next": next(moves), "running": 2}

        def before(who: int, state: dict[str, int] = state, turn: Any = turn, moves: Any = moves) -> None:
            with turn:
                turn.wait_for(lambda: state["next"] == who or state["running"] < 2, 10)
                state["next"] = next(moves)
                turn.notify_all()

        def add(who: int, numbers: range, url: Path = url, state: dict[str, int] = state, turn: Any = turn) -> None:
            store, _ = _planner(url, lambda step: before(who))
            store.add_prompts(records(numbers))
            with turn:
                state["running"] -= 1
                turn.notify_all()

        threads = [threading.Thread(target=add, args=(who, part)) for who, part in enumerate((MINE, THEIRS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert state["running"] == 0
        _check_whole(url, range(16))


def test_prompts_planned_beside_others_that_are_lost(tmp_path):
    """A run that did not finish, and whose data are gone, blocks nobody: its prompts are planned again, apart."""
    url = tmp_path / "s"
    store = make(url, shard_bytes=5000)
    store.add_prompts(records(range(30)))
    (first, second, *_) = store.pending()
    store.write_shard(first.index, shard_arrays(LAYOUT, first))
    mine = [*range(first.n_rows + 2), 50]
    other = ActivationStore.open(url)
    assert other.add_prompts(records(mine)) == 1
    assert other.add_prompts(records(mine), apart=True) == 2
    pending = other.pending(hashes(mine))
    assert {h for shard in pending for h in shard.hashes} == set(hashes(mine[-3:]))
    for shard in pending:
        other.write_shard(shard.index, shard_arrays(LAYOUT, shard))
    check(ActivationStore.open(url), mine)
    assert other.add_prompts(records(mine), apart=True) == 0
    store.write_shard(second.index, shard_arrays(LAYOUT, second))  # the other run was alive after all
    fill(ActivationStore.open(url))
    check(other, [*range(30), 50])
    assert len(other.prompts) == 31 == len(other.complete_rows()) and len(set(other.prompts.hash)) == 31
    assert verify(url) == []
    (url / log.key(1)).unlink()  # and the log can still be made again from what zarr readers see
    repair(url)
    check(ActivationStore.open(url), [*range(30), 50])
    assert verify(url) == []


def test_the_same_plan_from_two(tmp_path):
    """As two starts of one job make it: one entry, and both go on."""
    url = _begun(tmp_path / "s")
    stores = [ActivationStore.open(url) for _ in range(2)]
    for store in stores:
        store._state.refresh = lambda: None  # type: ignore[method-assign]  # both know the store as it was
    assert [store.add_prompts(records(MINE)) for store in stores] == [7, 7]
    assert len(list((url / "prompt" / "plan").iterdir())) == 3
    _check_whole(url, range(12))


def test_a_lost_reply(tmp_path, monkeypatch):
    """NFS sends a link again, S3's clients a PUT, whose first sending had succeeded: "exists" is one's own success."""
    create = LocalBackend.create

    def twice(backend: LocalBackend, key: str, data: bytes) -> bool:
        create(backend, key, data)
        return create(backend, key, data)

    monkeypatch.setattr(LocalBackend, "create", twice)
    store = make(tmp_path / "s")
    assert store.add_prompts(records(range(5))) == 5
    assert store.add_prompts(records(range(8))) == 3
    monkeypatch.undo()
    fill(store)
    check(ActivationStore.open(store.url), range(8))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links(code, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = filled(tmp_path / "s", range(5))
    backend = LocalBackend(tmp_path / "s")
    assert backend.create("x", b"1") and not backend.create("x", b"2") and backend.read("x") == b"1"
    check(ActivationStore.open(store.url), range(5))
    assert not list(tmp_path.rglob("*.partial"))


def test_no_half_entry_is_left_where_files_cannot_be_linked(tmp_path, monkeypatch):
    """As on a full disk: half an entry could not be read, and nothing could be planned behind it."""
    store = filled(tmp_path / "s", range(5))
    write_new = local._write_new

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    def half(path: Path, data: bytes) -> None:
        write_new(path, data if path.name.endswith(".partial") else data[:10])
        if not path.name.endswith(".partial"):
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(local, "_write_new", half)
    with pytest.raises(StoreError, match="full"):
        store.add_prompts(records(range(9)))
    monkeypatch.undo()
    assert make(store.url).add_prompts(records(range(9))) == 4


def test_a_listing_that_passes_over_an_entry(tmp_path, monkeypatch):
    """A folder that is listed while entries are put may show the later of two and not the earlier."""
    url = Path(filled(tmp_path / "s", range(5)).url)
    make(url).add_prompts(records(range(9)))
    make(url).add_prompts(records(range(12)))
    before = {path: path.read_bytes() for path in url.rglob("*") if path.is_file()}
    sizes = LocalBackend.sizes

    def some(backend: LocalBackend, folder: str) -> Any:
        return {name: size for name, size in sizes(backend, folder).items() if f"{folder}/{name}" != log.key(2)}

    monkeypatch.setattr(LocalBackend, "sizes", some)
    assert len(ActivationStore.open(url).prompts) == 12
    assert [problem for problem in verify(url) if not problem.missing] == []
    repair(url)  # must not take the entry behind it for one that follows on nothing
    assert {path: path.read_bytes() for path in url.rglob("*") if path.is_file()} == before


def test_another_process_makes_the_store_at_the_same_moment(tmp_path, monkeypatch):
    """Between the look whether there is a store and the look whether there is something else."""
    url = tmp_path / "s"
    require_empty_place = opening.require_empty_place

    def slow(*args: Any) -> Any:
        monkeypatch.undo()
        filled(url, range(5))
        return require_empty_place(*args)

    monkeypatch.setattr(opening, "require_empty_place", slow)
    check(make(url), range(5))


def test_an_entry_being_written_is_waited_for(tmp_path, monkeypatch):
    """Where files cannot be linked, a reader may come upon half an entry."""
    url = Path(filled(tmp_path / "s", range(5)).url)
    path = url / log.key(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    monkeypatch.setattr(log.time, "sleep", lambda _: path.write_bytes(whole))
    check(ActivationStore.open(url), range(5))


def test_entries_of_another_store(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "_PAUSE", 0)
    store = filled(tmp_path / "s", range(5))
    other = make(tmp_path / "other")
    other.add_prompts([record(1)])
    other.add_prompts([record(7)])
    (tmp_path / "s" / log.key(2)).write_bytes((tmp_path / "other" / log.key(2)).read_bytes())
    for look in (ActivationStore.open, lambda _: store.pending()):
        with pytest.raises(StoreError, match=r"000002.json.zst.* does not follow on the one before it"):
            look(store.url)
    assert verify(store.url)


@pytest.mark.parametrize("conflicts", [1, 9])
def test_conflicts_at_s3(conflicts, s3, monkeypatch):
    """S3 answers 409 to a conditional PUT while another request for the key is under way: it is sent again."""
    said: list[str] = []

    def busy(method: str, headers: dict[str, str]) -> Any:
        if "if-none-match" in headers and len(said) < conflicts:
            said.append(method)
            return 409, "ConditionalRequestConflict"
        return None

    monkeypatch.setattr("refusal_lightning.store.backend.remote._CONFLICT_PAUSE", 0.001)
    key = f"x{conflicts}"
    with _endpoint(s3, busy) as options:
        backend = open_backend("s3://bucket/conflicts", options)
        if conflicts == 1:
            assert backend.create(key, b"1") and not backend.create(key, b"2")
            assert backend.read(key) == b"1"
        else:
            with pytest.raises(StoreError, match="could not be put beside another request"):
                backend.create(key, b"1")


@pytest.mark.parametrize("answer", ["ignores", "knows no"])
def test_endpoints_without_conditional_writes(answer, s3):
    """Two jobs could plan the same rows there: no store is made."""
    url = f"s3://bucket/{answer.replace(' ', '-')}"

    def other(method: str, headers: dict[str, str]) -> Any:
        if headers.pop("if-none-match", None) and answer == "knows no":
            return 501, "NotImplemented"
        return None

    with _endpoint(s3, other) as options, pytest.raises(UserError, match="If-None-Match"):
        make(url, storage_options=options)
    assert not ActivationStore.exists(url, s3)


@contextmanager
def _endpoint(s3: dict[str, Any], habit: Any) -> Iterator[dict[str, Any]]:
    """Storage options of an endpoint of this habit in front of the S3 server."""
    with s3_proxy(s3["client_kwargs"]["endpoint_url"], habit) as url:
        yield {**s3, "client_kwargs": {**s3["client_kwargs"], "endpoint_url": url}}
