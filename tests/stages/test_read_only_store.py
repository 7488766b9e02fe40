"""A store of others, which one may only read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refusal_lightning.cli import main
from refusal_lightning.distributed import process_group
from refusal_lightning.errors import UserError
from refusal_lightning.store.backend.local import LocalBackend
from runs import write_config, write_data


@pytest.fixture
def run(tiny_llama_folder, tmp_path) -> Callable[..., int]:
    """``run(stage, *options)`` with a store that is filled, and a first `select` of the staged kind."""
    data, quick = write_data(tmp_path / "data", 6, 3), {"analyses": ["projection"]}
    sizes = {"n_train": 6, "n_val": 3}
    config = write_config(
        tmp_path, tiny_llama_folder, data, select={"mode": "staged", "answer_kl_tokens": 2}, data=sizes, analyze=quick
    )
    assert main(["cache", "--config", config]) == main(["select", "--config", config]) == 0
    return lambda stage, *options: main([stage, "--config", config, *options])


def denied(monkeypatch: pytest.MonkeyPatch, store: Path, error: Callable[[], Exception]) -> None:
    """Whatever is written in the store raises (permissions would not hold back root)."""
    for name in ("write", "create", "delete", "delete_folder"):
        plain = getattr(LocalBackend, name)

        def refuse(self: LocalBackend, key: str, *rest: Any, plain: Any = plain) -> Any:
            if self.root.is_relative_to(store):
                raise error()
            return plain(self, key, *rest)

        monkeypatch.setattr(LocalBackend, name, refuse)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_that_adds_nothing_works_and_new_scores_go_into_the_runs_folder(run, tmp_path, monkeypatch, capsys):
    """Exhaustive scores beside the owner's staged ones, which are taken as they are; found again by the next."""
    before = files(tmp_path / "store")
    with monkeypatch.context() as patch:
        denied(patch, tmp_path / "store", lambda: AssertionError("written to"))
        for stage in ("cache", "select", "analyze"):
            assert run(stage) == 0
        assert run("select", "--select.kl_threshold", "1") == 0
    assert files(tmp_path / "store") == before
    shutil.copytree(tmp_path / "store", tmp_path / "own")
    denied(monkeypatch, tmp_path / "store", lambda: UserError("store s cannot be written (Permission denied)"))
    capsys.readouterr()
    assert run("select", "--select.mode", "exhaustive") == 0
    said = capsys.readouterr().out
    where, work = said.index("cannot be written, so what is computed is kept in"), said.index("induce scores of")
    assert where < work and said.count("so what is computed") == 1  # before the work
    assert files(tmp_path / "store") == before
    evaluations = tmp_path / "runs" / "tiny" / "select_direction" / "direction_evaluations.json"
    theirs = json.loads(evaluations.read_text())
    assert run("select", "--select.mode", "exhaustive") == 0
    said = capsys.readouterr().out
    assert "nothing to compute" in said and "scores of" not in said and "kept in" not in said
    assert json.loads(evaluations.read_text()) == theirs
    shutil.rmtree(tmp_path / "runs")
    assert run("select", "--select.mode", "exhaustive", "--store.root", str(tmp_path / "own")) == 0
    assert json.loads(evaluations.read_text()) == theirs


def test_several_processes_leave_no_mark_where_there_is_nothing_to_do(run, tmp_path, monkeypatch, capsys):
    """As one of two processes sees it, both with the complete store."""
    written: list[Path] = []
    monkeypatch.setattr(process_group, "is_distributed", lambda: True)
    monkeypatch.setattr(process_group, "get_rank", lambda: 0)
    monkeypatch.setattr(process_group, "gather_objects", lambda value: [value, value])
    monkeypatch.setattr(process_group, "barrier", lambda: None)
    monkeypatch.setattr(process_group, "write_bytes", lambda path, content: written.append(path))
    monkeypatch.setattr(process_group, "wait_until_visible", lambda own: None)
    denied(monkeypatch, tmp_path / "store", lambda: AssertionError("written to"))
    assert run("cache") == 0
    assert "nothing to do" in capsys.readouterr().out and not written
    process_group.require_shared_folder(tmp_path / "other", "store.root", unless=lambda: False)
    assert [path.parent for path in written] == [tmp_path / "other"]
