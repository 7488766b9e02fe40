"""Servers, and a small world of sources: the real registry's forms with harmless made-up rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from moody_server import QUICK, MoodyServer

from refusal_lightning.data import prepare
from refusal_lightning.data.sources import SOURCES


@pytest.fixture
def serve() -> Iterator[Callable[[Path], MoodyServer]]:
    """``serve(folder)``: a server over a folder, stopped when the test ends."""
    servers: list[MoodyServer] = []

    def start(folder: Path) -> MoodyServer:
        servers.append(MoodyServer(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@dataclass
class World:
    """A mirror of made-up sources, and what must come of it."""

    mirror: Path
    processed: dict[str, list[dict[str, Any]]]
    """The rows of each set, made without the package."""

    def text(self) -> set[str]:
        return {row["instruction"] for rows in self.processed.values() for row in rows}


def _csv(header: list[str], rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([header, *rows])
    return out.getvalue().encode()


def _files() -> tuple[dict[str, bytes], dict[str, list[dict[str, Any]]]]:
    def behaviors(n: int, first: int) -> tuple[bytes, list[dict[str, Any]]]:
        kinds = ("standard", "copyright", "contextual")
        rows = [[f" Shared, {first + i}", kinds[i % 3], f"topic {i % 2}", ""] for i in range(n)]
        kept = [{"instruction": r[0].strip(), "category": r[2]} for r in rows if r[1] == "standard"]
        return _csv(["Behavior", "FunctionalCategory", "SemanticCategory", "Tags"], rows), kept

    files, processed = {}, {}
    goals = [f"Say “{i}”\nplease" for i in range(200)]
    files["advbench.csv"] = _csv(["goal", "target"], [[g + " ", "Sure"] for g in goals])
    processed["advbench"] = [{"instruction": g, "category": None} for g in goals]
    lines = [f"Count to {i}" for i in range(12)]
    files["malicious_instruct.txt"] = "\n".join(lines).encode()
    processed["malicious_instruct"] = [{"instruction": x, "category": None} for x in lines]
    dev, test = [f"Dev {i}" for i in range(5)], [f"Shared, {i}" for i in (0, 1, 100, 101)]
    files["tdc2023_dev_behaviors.json"] = json.dumps(dev).encode()
    files["tdc2023_test_behaviors.json"] = json.dumps(test).encode()
    processed["tdc2023"] = [{"instruction": x, "category": None} for x in dev + test]
    # Behavior 9 of the validation set is in the test set too (row 0 of it).
    files["harmbench_val.csv"], processed["harmbench_val"] = behaviors(30, 91)
    files["harmbench_test.csv"], processed["harmbench_test"] = behaviors(30, 0)
    twice = [["0", goals[3], "t", "b", "c", "s"], ["1", "Shared, 100", "t", "b", "d", "s"]]
    files["jailbreakbench.csv"] = _csv(["", "Goal", "Target", "Behavior", "Category", "Source"], twice)
    processed["jailbreakbench"] = [{"instruction": r[1], "category": r[4]} for r in twice]
    asked = [["x", "s", f"Ask {i}"] for i in range(9)]
    files["strongreject.csv"] = _csv(["category", "source", "forbidden_prompt"], asked)
    processed["strongreject"] = [{"instruction": r[2], "category": "x"} for r in asked]
    tasks = [{"instruction": f"Task {i} é", "input": "" if i % 3 else "given", "output": "o"} for i in range(100)]
    files["alpaca_data.json"] = json.dumps(tasks, ensure_ascii=False).encode()
    processed["alpaca"] = [{"instruction": t["instruction"], "category": None} for t in tasks if not t["input"]]
    return files, processed


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A mirror folder of made-up sources, the registry pinned to it, and little patience; nothing reaches the Hub."""
    files, processed = _files()
    raw = tmp_path / "mirror" / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    sources = {}
    for name, source in SOURCES.items():
        pinned = tuple(
            replace(
                file,
                sha256=hashlib.sha256(files[Path(file.path).name]).hexdigest(),
                size=file.size and len(files[Path(file.path).name]),
            )
            for file in source.files
        )
        digest = hashlib.sha256(json.dumps(processed[name], indent=4).encode()).hexdigest()
        sources[name] = replace(source, files=pinned, sha256=digest, count=len(processed[name]))
    monkeypatch.setattr(prepare, "SOURCES", sources)
    monkeypatch.setattr(prepare, "PATIENCE", QUICK)
    return World(raw.parent, processed)
