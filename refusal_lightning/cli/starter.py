"""`init`: a commented configuration and sample prompts to start from."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import yaml

from refusal_lightning.cli.program import program
from refusal_lightning.cli.schema import default_of, documentation, schema_text
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.errors import UserError
from refusal_lightning.io.files import write_bytes
from refusal_lightning.io.shipped import ROOT, SAMPLE

_CONFIG, _SCHEMA, _PROMPTS = "config.yaml", "config.schema.json", "prompts"
_WIDTH = 100

_DEFAULT = object()
"""In place of a value: the key's default."""
_KEYS: dict[str, dict[str, Any]] = {
    "model": {"name": "demo", "system_prompt": _DEFAULT, "refusal_tokens": _DEFAULT, "dtype": _DEFAULT},
    "data": {"root": _PROMPTS, "labels": _DEFAULT, "n_train": 96, "n_val": 16},
    "store": {"root": _DEFAULT},
    "trainer": {"accelerator": _DEFAULT, "devices": _DEFAULT},
    "runs": {"root": _DEFAULT},
    "cache": {"batch_size": _DEFAULT},
    "select": {"kl_threshold": 0.5},
    "evaluate": {"n_test": _DEFAULT, "max_new_tokens": 32, "judges": _DEFAULT, "losses": _DEFAULT},
}
"""The keys that a beginner needs, with the values that suit the demo model and the sample prompts."""
_NOTES = {
    ("data", "n_train"): "The sample has 96; of your own prompts take as many as you have, up to 128.",
    ("select", "kl_threshold"): "The demo model is so small that it needs 0.5. Begin with the paper's 0.1 on your own.",
    ("evaluate", "max_new_tokens"): "32 is enough to see the demo model refuse; the paper has 512.",
}
"""What the text of a key does not say, since it is about this file's value."""


def init(folder: str) -> None:
    """Write a configuration, its schema and sample prompts into a folder. Raises UserError where one is there."""
    root = Path(folder).expanduser()
    files = _files()
    there = [name for name in files if (root / name).exists()]
    if there:
        raise UserError(f"{root / there[0]} is there already, and init overwrites nothing: name another folder")
    for name, content in files.items():
        write_bytes(root / name, content)
    splits = sum(name.startswith(_PROMPTS) for name in files)
    print(f"wrote {root / _CONFIG} and, in {root / _PROMPTS}, {splits} files of sample prompts to replace by your own")
    enter = "" if root.resolve() == Path.cwd() else f"cd {folder} && "
    print(f"next: {enter}{program()} run --config {_CONFIG}")


def _files() -> dict[str, bytes]:
    """What `init` writes, by the path within its folder."""
    splits = sorted((ROOT / SAMPLE / "splits").glob("*.json"))
    return {
        _CONFIG: configuration_text().encode(),
        _SCHEMA: schema_text().encode(),
        **{f"{_PROMPTS}/splits/{path.name}": path.read_bytes() for path in splits},
    }


def configuration_text() -> str:
    """The configuration as YAML, each key below the text that explains it."""
    lines = [
        f"# yaml-language-server: $schema={_SCHEMA}",
        *_comment(
            "A configuration to start from, for the demo model and the sample prompts. Paths are relative to the "
            "folder that you are in. Keys that are not here have their defaults; "
            f"`{program()} COMMAND --help` explains all of them.",
            "",
        ),
    ]
    for section, values in _KEYS.items():
        about, texts = documentation(SECTIONS[section])
        fields = {field.name: field for field in dataclasses.fields(SECTIONS[section])}
        lines += ["", *_comment(about, ""), f"{section}:"]
        for key, given in values.items():
            value = default_of(fields[key]) if given is _DEFAULT else given
            note = _NOTES.get((section, key), "")
            lines += [*_comment(f"{texts[key]} {note}".strip(), "  "), f"  {key}: {_in_yaml(value)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )


def _in_yaml(value: Any) -> str:
    """A value on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
