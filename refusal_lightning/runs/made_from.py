"""What each file of a run was made from, and where files go that were made from something else: aside, never away.

run.json has for every file its stage, what it was made from and its sha256: model, direction, settings. Before a stage
writes, it says what it is going to write and what else may stay (``make_room``).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refusal_lightning import plugins
from refusal_lightning.distributed.process_group import barrier
from refusal_lightning.errors import UserError
from refusal_lightning.io.console import is_main_process
from refusal_lightning.io.hashing import digest, file_digest
from refusal_lightning.io.serialization import plain, write_json
from refusal_lightning.runs.folder import FILES, RunFolder

log = logging.getLogger(__name__)

MadeFrom = dict[str, Any]

SHUTS_OUT = {
    "select": ("evaluate", "capability", "analyze"),
    "evaluate": ("select",),
    "capability": ("select",),
    "analyze": ("select",),
}
"""Stages that may not work in a run's folder at the same time: `select` changes the direction under the others."""


@contextmanager
def working(
    run: RunFolder,
    stage: str,
    identity: Mapping[str, Any],
    name: str,
    *,
    direction: str | None = None,
    replace: bool = False,
) -> Iterator[None]:
    """While a stage works in a run's folder: it is this model's (see ``claim``), and no other job's.

    ``direction`` is the digest of the one that was read from it before. The first process of a run sees to it for all,
    and none begins before.
    """
    if not is_main_process():
        barrier()
        yield
        return
    with run.working(stage, SHUTS_OUT[stage]):
        claim(run, identity, name, replace)
        if direction is not None:
            run.require_direction(direction)
        for change in plugins.changed(run.read_record().get(stage, {}).get("plugins", ())):
            log.warning(f"{stage}: {change}; what it makes may differ from the earlier results in {run.path}")
        barrier()
        yield


def claim(run: RunFolder, identity: Mapping[str, Any], name: str, replace: bool = False) -> None:
    """See that a run's folder is this model's. Raises UserError where it holds the run of another one.

    With ``replace`` that run is moved aside.
    """
    record = run.read_record()
    theirs = [record[stage] for stage in FILES if "model" in record.get(stage, {})]
    if not theirs or all(entry["model"] == identity for entry in theirs):
        return
    other = next(entry for entry in theirs if entry["model"] != identity)
    their_name = other.get("config", {}).get("model", {}).get("name", "another model")
    if replace:
        estimators = [run.estimators] if run.estimators.is_dir() else []
        _set_aside(run, record, [*_present(run, FILES), *estimators], f"select: the run of {their_name}")
        run.record.unlink()
        return
    raise UserError(
        f"{run.path} holds the run of another model or template: of {their_name}, and this is {name} "
        f"({', '.join(_differences(other['model'], identity))}). Give this one a model.alias or runs.root of its own, "
        "or run `select` with runs.replace: true, which moves that run aside"
    )


def make_room(
    run: RunFolder,
    stage: str,
    planned: Mapping[Path, MadeFrom],
    stays: Callable[[str, MadeFrom], bool],
    *,
    also: Collection[Path] = (),
    forget: Collection[str] = (),
) -> list[Path]:
    """Before a stage writes ``planned``: move aside what was made from something else, and note what will be there.

    A file at a planned place stays, to be written again, if it was made from the same; any other one of the stage's (of
    any stage's, for `select`) if ``stays(name, made_from)``. A file that run.json does not know as it is, is moved too.
    ``also`` are moved in any case; ``forget`` are stages whose entries in run.json go with their files. Returns what
    stays of the stage's own files without being planned.
    """
    wanted = {str(path.relative_to(run.path)): _as_json(made_from) for path, made_from in planned.items()}
    with run.updating() as record:
        files: dict[str, Any] = record.setdefault("files", {})
        aside: list[Path] = list(also)
        beside: list[Path] = []
        for path in _present(run, FILES if stage == "select" else [stage]):
            name = str(path.relative_to(run.path))
            made_from = _known(path, files.get(name))
            if made_from is None or not (made_from == wanted[name] if name in wanted else stays(name, made_from)):
                aside.append(path)
            elif name not in wanted:
                beside.append(path)
        if aside:
            _set_aside(run, record, aside, f"{stage}: what is not known to be of this model, direction and settings")
            again = [f"`{gone}`" for gone in forget if gone in record]
            if again:
                log.info(f"{stage}: the results of {', '.join(again)} were an earlier direction's; run it again")
        for name in [name for name in files if not (run.path / name).is_file()]:
            del files[name]
        for gone in forget:
            record.pop(gone, None)
            record.get("timings", {}).pop(f"{gone}_seconds", None)
        # Noted before it is written, so that a run that is killed meanwhile finds its own files when it goes on.
        for name, made_from in wanted.items():
            files[name] = {"stage": stage, "made_from": made_from, "sha256": None}
    return beside


def in_short(run: RunFolder, paths: Collection[Path]) -> str:
    """Files of a run by folder, with their number."""
    counts = Counter(path.relative_to(run.path).parts[0] for path in paths)
    return ", ".join(name if Path(name).suffix else f"{name} ({count})" for name, count in counts.items())


def kept_aside(run: RunFolder, name: str) -> Iterator[Path]:
    """Files of this name that were moved aside, the latest first."""
    folders = sorted(_stale(run), key=lambda folder: int(folder.name), reverse=True)
    return (path for folder in folders if (path := folder / name).is_file())


def _known(path: Path, entry: Mapping[str, Any] | None) -> MadeFrom | None:
    """What a file was made from; None where run.json does not say, or says it of other content."""
    if entry is None or entry["sha256"] not in (None, file_digest(path)):
        return None
    return dict(entry["made_from"])


def _present(run: RunFolder, stages: Collection[str]) -> list[Path]:
    found = (path for stage in stages for pattern in FILES[stage] for path in sorted(run.path.glob(pattern)))
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _stale(run: RunFolder) -> list[Path]:
    return [folder for folder in run.stale.glob("*") if folder.name.isdigit()]


def _set_aside(run: RunFolder, record: Mapping[str, Any], paths: Collection[Path], what: str) -> None:
    """Move files into a folder of their own, with the run.json that tells of them, and say so."""
    number = 1 + max((int(folder.name) for folder in _stale(run)), default=0)
    folder = run.stale / str(number)
    write_json(folder / "run.json", record)
    for path in paths:
        place = folder / path.relative_to(run.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
    log.info(f"{what} is now in {folder}: {in_short(run, paths)}")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two models' identities, in a few words each."""
    for key in ours:
        if theirs.get(key) != ours[key]:
            short = all(isinstance(side.get(key), str) and len(side[key]) < 12 for side in (theirs, ours))
            if short:
                yield f"{key} {theirs[key]} there, {ours[key]} here"
            else:
                first, second = (digest(side.get(key))[:8] for side in (theirs, ours))
                yield f"{'weights' if key == 'model' else key} {first} there, {second} here"


def _as_json(made_from: MadeFrom) -> MadeFrom:
    """As it is read again: tuples as lists, numbers that JSON has no word for as null."""
    value: MadeFrom = json.loads(json.dumps(plain(made_from)))
    return value
