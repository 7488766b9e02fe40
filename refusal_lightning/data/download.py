"""Fetching one file over HTTP: resumed where it broke off, tried again, checked, and put in place whole."""

from __future__ import annotations

import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refusal_lightning.data.files import sha256_of_file
from refusal_lightning.io.text import one_line

Advance = Callable[[int, int | None], None]
"""Told the bytes that a file has so far, and how many there will be (None: not known)."""

_CHUNK = 64 * 1024
_LARGEST = 1 << 30


@dataclass(frozen=True)
class Patience:
    """How long a server may misbehave."""

    timeout: float = 30.0
    """Seconds without an answer, or seconds over which fewer than `slowest` bytes a second came."""
    tries: int = 4
    """Tries in a row that bring next to nothing."""
    most_tries: int = 20
    """Tries in all."""
    pause: float = 1.0
    """Seconds before the second try, doubled for each further one that brings next to nothing."""
    slowest: float = 512.0
    """Bytes per second."""


class Unavailable(Exception):
    """A place that does not give a file; the message says where and why, in one line."""

    def __init__(self, reason: str, works: bool = False) -> None:
        super().__init__(reason)
        self.works = works
        """The place answers as it should, but has no such file, or another one under that name."""


class _Broken(Exception):
    """A try that failed in a way that another try may not."""


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    size: int | None = None,
    patience: Patience | None = None,
    advance: Advance | None = None,
) -> None:
    """Fetch a URL into ``target``, which appears only when it is complete and has the right content.

    What has come so far stays beside it as ``.NAME.part``, and the next call asks for the rest. Raises Unavailable.
    """
    patience = patience or Patience()
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    idle, continued, again = 0, False, False
    for attempt in range(1, patience.most_tries + 1):
        before = _size(part)
        if not (sha256 is not None and before and sha256_of_file(part) == sha256):
            try:
                continued = _attempt(url, part, size, patience, advance)
            except (_Broken, OSError, http.client.HTTPException) as error:
                idle = 0 if _size(part) - before > patience.slowest * patience.timeout else idle + 1
                if idle >= patience.tries or attempt == patience.most_tries:
                    raise Unavailable(f"{url}: {_reason(error, patience)}, after {attempt} tries") from error
                time.sleep(patience.pause * 2 ** max(0, idle - 1))
                continue
        found = sha256_of_file(part)
        if sha256 is None or found == sha256:
            part.replace(target)
            return
        got = _size(part)
        part.unlink()
        # An old part and a new rest need not belong together: once more from the start.
        if not continued or again:
            raise Unavailable(f"{url}: {_another(got, found, sha256)}", works=True)
        again = True
    raise Unavailable(f"{url}: no complete answer in {patience.most_tries} tries")


def copy(origin: Path, target: Path, sha256: str | None = None) -> None:
    """Copy a file of a mirror folder into place, checked in the same way. Raises Unavailable."""
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(origin, part)
    except FileNotFoundError:
        raise Unavailable(f"{origin}: no such file", works=True) from None
    except OSError as error:
        raise Unavailable(f"{origin}: {error.strerror or error}") from error
    found = sha256_of_file(part)
    if sha256 is not None and found != sha256:
        got = _size(part)
        part.unlink()
        raise Unavailable(f"{origin}: {_another(got, found, sha256)}", works=True)
    part.replace(target)


def _attempt(url: str, part: Path, size: int | None, patience: Patience, advance: Advance | None) -> bool:
    """One request, appended to ``part``. Returns whether the answer continued what was there."""
    start = _size(part)
    headers = {"User-Agent": "refusal_lightning", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                part.unlink()
                raise _Broken("the server can't continue the file") from error
            if error.code in (408, 425, 429) or error.code >= 500:
                raise _Broken(f"HTTP {error.code} {error.reason}".strip()) from error
            raise Unavailable(f"{url}: HTTP {error.code} {error.reason}".strip(), error.code in (404, 410)) from error
    with answer:
        continued = answer.status == 206 and _continues_at(answer.headers.get("Content-Range"), start)
        if answer.status == 206 and not continued:
            part.unlink(missing_ok=True)
            raise _Broken("the server continued the file at another place than asked")
        have = start if continued else 0
        announced = answer.headers.get("Content-Length")
        total = have + int(announced) if announced is not None and announced.isdigit() else None
        with part.open("ab" if continued else "wb") as file:
            window, since = time.monotonic(), have
            while chunk := answer.read1(_CHUNK):
                file.write(chunk)
                file.flush()
                have += len(chunk)
                if advance is not None:
                    advance(have, total or size)
                if have > (size or _LARGEST):
                    return continued  # whatever this is, it is not the file
                now = time.monotonic()
                if now - window > patience.timeout:
                    if have - since < patience.slowest * patience.timeout:
                        raise _Broken(f"slower than {patience.slowest:.0f} bytes a second")
                    window, since = now, have
    whole = size if total is None else total
    if whole is not None and have < whole:
        raise _Broken(f"the connection ended after {have} of {whole} bytes")
    return continued


def _continues_at(content_range: str | None, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", content_range or "")
    return match is not None and int(match.group(1)) == start


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _another(got: int, found: str | None, wanted: str) -> str:
    return f"another content than expected ({got} bytes, sha256 {str(found)[:12]}…, not {wanted[:12]}…)"


def _reason(error: Exception, patience: Patience) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer in {patience.timeout:g} seconds"
    text = one_line(cause) or type(cause).__name__
    return text if isinstance(error, _Broken) else text[:200]
