"""The table of docs/models.md: what holds on every architecture.

    python tests/zoo/table.py

examines all of them, which takes a few minutes, and writes the table. The zoo's test compares the table with what it
finds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from architectures import NOT_BUILT, TINY
from examine import examine
from specimens import save_specimen

from refusal_lightning.errors import UserError

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: written by tests/zoo/table.py -->", "<!-- end of zoo -->"


def verdict(name: str, folder: Path) -> str:
    """What holds on an architecture, in a few words."""
    save_specimen(name, folder)
    try:
        found = examine(name, folder)
    except UserError as error:
        return "refused: " + str(error).replace(f"model {str(folder)!r} ", "")
    if found.wrong:
        return "wrong: " + ", ".join(f"{what} {figure:.1e}" for what, figure in found.wrong.items())
    return "exact" if found.way == "all" else f"exact; {found.way}"


def rendered(verdicts: dict[str, str]) -> str:
    """The table as Markdown, markers included."""
    lines = [BEGIN, "", "| architecture | model type | on a tiny random model |", "| --- | --- | --- |"]
    lines += [f"| {name} | {TINY[name].model_type} | {verdicts[name]} |" for name in sorted(verdicts)]
    reasons: dict[str, list[str]] = {}
    for name, reason in NOT_BUILT.items():
        reasons.setdefault(reason, []).append(name)
    lines += ["", "| not tried | why |", "| --- | --- |"]
    lines += [f"| {', '.join(sorted(names))} | {reason} |" for reason, names in reasons.items()]
    return "\n".join([*lines, "", END])


def read() -> dict[str, str]:
    """Verdicts by architecture, as the table has them."""
    text = DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].partition("| not tried")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: words for name, _, words in rows[2:]}


def write(verdicts: dict[str, str]) -> None:
    """Put the table where its markers are."""
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    DOCS.write_text(before + rendered(verdicts) + rest.partition(END)[2], encoding="utf-8")


def main() -> None:
    """Examine everything, and write."""
    verdicts = {}
    for name in TINY:
        with tempfile.TemporaryDirectory() as folder:
            verdicts[name] = verdict(name, Path(folder) / name)
        print(name, verdicts[name], flush=True)
    write(verdicts)


if __name__ == "__main__":
    main()
