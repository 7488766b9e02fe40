"""Building ``raw/``, ``processed/`` and ``splits/`` from the public sources (see sources) or a mirror of them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from refusal_lightning.data import hub
from refusal_lightning.data.download import Advance, Patience, Unavailable, copy, download
from refusal_lightning.data.files import rows_to_bytes, sha256_of_file, write_whole
from refusal_lightning.data.sources import SOURCES, RemoteFile, Source
from refusal_lightning.data.splits import harmful_splits, harmless_splits, require_disjoint
from refusal_lightning.data.tables import Row, read_table, to_rows
from refusal_lightning.errors import UserError
from refusal_lightning.io.hashing import sha256_of

PATIENCE = Patience()
SPACE = 100 * 2**20
"""Free bytes asked for before anything is fetched (everything together takes 35 MB)."""

Fetch = Callable[[RemoteFile], Path]


def prepare(
    out: str | Path,
    mirror: str | Path | None = None,
    seed: int = 42,
    splits: str | Path | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Fetch what is not there yet, and write the processed sets and the six splits; returns the splits' row counts.

    ``mirror`` is a folder or URL that holds the sources' files under the same names; ``splits`` a folder with six
    splits to be taken as they are. A run that was cut short or failed is continued by the next one.
    """
    root = Path(out)
    given = None if splits is None else _given_splits(Path(splits))
    where = None if mirror is None else _mirror(mirror)
    _require_room(root)
    with _alone_in(root), _bars(progress) as bar:
        sets = {name: _processed(source, root, where, bar) for name, source in SOURCES.items()}
        if given is None:
            made = {
                f"{kind}_{split}": rows
                for kind, cut in (("harmful", harmful_splits), ("harmless", harmless_splits))
                for split, rows in cut(sets, seed).items()
            }
            require_disjoint(made)
            given = {name: (rows_to_bytes(rows), len(rows)) for name, rows in made.items()}
        for name, (content, _) in given.items():
            write_whole(root / "splits" / f"{name}.json", content)
    return {name: count for name, (_, count) in given.items()}


def _processed(source: Source, root: Path, mirror: str | Path | None, bar: Callable[[str], Advance]) -> list[Row]:
    """The rows of a source, from ``processed/NAME.json`` where it is right, else from the first place that has them."""
    path = root / "processed" / f"{source.name}.json"
    if sha256_of_file(path) == source.sha256:
        return _as_rows(path)

    def fetch(file: RemoteFile) -> Path:
        # A mirror may have taken the Hub's form of a file: there the rows it gives are what is checked.
        pinned = file if mirror is None or source.hub is None else replace(file, sha256=None, size=None)
        return _fetch(pinned, root, mirror, bar)

    failures = []
    for place in _places(source, root, fetch, from_mirror=mirror is not None):
        try:
            rows = place()
            content = rows_to_bytes(rows)
            if sha256_of(content) == source.sha256:
                write_whole(path, content)
                return rows
            failures.append(
                f"its {len(rows)} rows are not the paper's {source.count} (sha256 {sha256_of(content)[:12]}…)"
            )
        except (Unavailable, UserError) as error:
            failures.append(str(error))
            if mirror is not None and not getattr(error, "works", False):
                break
    hint = "" if mirror is not None else ", or give a folder or URL that has the files with --mirror"
    raise UserError(
        f"{source.title} can't be had: {'; '.join(failures)}. What is there is kept in {root}: run the same command "
        f"again to continue{hint}"
    )


def _places(source: Source, root: Path, fetch: Fetch, from_mirror: bool) -> Iterator[Callable[[], list[Row]]]:
    """Where a source's rows may come from, in this order: the Hub, then the files; or the forms a mirror may hold."""

    def from_files() -> list[Row]:
        return _rows(source, [row for file in source.files for row in read_table(fetch(file))])

    saved = RemoteFile(f"raw/{source.name}.jsonl", (), None)

    def from_hub() -> list[Row]:
        assert source.hub is not None
        table = hub.load_hub(source.hub)
        write_whole(root / saved.path, b"".join(json.dumps(row, default=str).encode() + b"\n" for row in table))
        return _rows(source, table)

    def from_saved() -> list[Row]:
        return _rows(source, read_table(fetch(saved)))

    def from_processed() -> list[Row]:
        return _as_rows(fetch(RemoteFile(f"processed/{source.name}.json", (), source.sha256)))

    if not from_mirror:
        yield from (from_hub, from_files) if source.hub else (from_files,)
    else:
        yield from_files
        if source.hub:
            yield from (from_processed, from_saved)


def _rows(source: Source, table: list[Any]) -> list[Row]:
    rows = to_rows(table, source.title, source.columns, source.where)
    return [{**row, "instruction": row["instruction"].strip()} for row in rows]


def _as_rows(path: Path) -> list[Row]:
    rows: list[Row] = read_table(path)
    return rows


def _fetch(file: RemoteFile, root: Path, mirror: str | Path | None, bar: Callable[[str], Advance]) -> Path:
    """The file in its place under ``root``, fetched unless it is there. Raises Unavailable."""
    target = root / file.path
    if file.sha256 is not None and sha256_of_file(target) == file.sha256:
        return target
    if isinstance(mirror, Path):
        copy(mirror / file.path, target, file.sha256)
        return target
    urls = file.urls if mirror is None else (f"{mirror}/{file.path}",)
    failures: list[Unavailable] = []
    for url in urls:
        try:
            download(url, target, file.sha256, file.size, PATIENCE, bar(target.name))
            return target
        except Unavailable as error:
            failures.append(error)
    raise Unavailable("; ".join(map(str, failures)), works=all(error.works for error in failures))


def _given_splits(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The six files of a folder of splits as they are, checked: rows in each, and no instruction in two."""
    contents, rows = {}, {}
    for kind in ("harmful", "harmless"):
        for split in ("train", "val", "test"):
            path = folder / f"{kind}_{split}.json"
            try:
                contents[path.stem] = path.read_bytes()
                rows[path.stem] = to_rows(read_table(path), f"dataset file {path}")
            except OSError as error:
                raise UserError(
                    f"--splits: {path} cannot be read ({error.strerror}); the folder must hold "
                    "{harmful,harmless}_{train,val,test}.json"
                ) from error
    require_disjoint(rows)
    return {name: (content, len(rows[name])) for name, content in contents.items()}


def _mirror(mirror: str | Path) -> str | Path:
    """The mirror as a URL without a slash at its end, or as a folder that exists."""
    if str(mirror).startswith(("http://", "https://")):
        return str(mirror).rstrip("/")
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise UserError(f"--mirror: {str(mirror)!r} is neither a folder nor a URL (http:// or https://)")
    return folder


def _require_room(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise UserError(f"--out: cannot write in {str(root)!r}: {error.strerror}") from error
    if free < SPACE:
        raise UserError(f"--out: {root} has {free // 2**20} MB of free space, and {SPACE // 2**20} MB are needed")


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Hold the folder, where its file system knows locks: two runs would write into the same half-fetched files.

    Raises UserError while another run holds it; the system lets go when a process ends, however it does.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out: another `data prepare` is at work in {root}; wait until it has ended") from None
        except OSError:
            pass  # no locks here: then the checksums alone keep the files right
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _bars(show: bool) -> Iterator[Callable[[str], Advance]]:
    """``bar(name)`` gives what a download tells its bytes to; a bar each, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:

        def bar(name: str) -> Advance:
            task = progress.add_task(name, total=None)
            return lambda have, total: progress.update(task, completed=have, total=total)

        yield bar
