"""Every page of docs/ has an example that is run, and every example runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_examples import Example, commands, copy_of, examples, pages, run_example
from nodes import ROOT


@pytest.mark.parametrize("page", pages())
def test_the_examples_of_a_page(page, clone, tmp_path, monkeypatch):
    found = examples((ROOT / page).read_text(encoding="utf-8"))
    assert any(example.file is None for example in found), f"{page} has no example that is run (<!-- tested -->)"
    monkeypatch.chdir(folder := copy_of(clone, tmp_path / "clone"))
    for example in found:
        run_example(example, folder)


def test_an_example_is_found_and_run(tmp_path, monkeypatch):
    text = "\n".join(
        [
            "# A page",
            "<!-- tested: in/words.txt -->",
            "```text",
            "one two",
            "```",
            "1. In a list:",
            "",
            "    <!-- tested -->",
            "    ```sh",
            "    # a comment",
            "    for file in in/*; do",
            '      wc -w "$file" > count.txt',
            "    done",
            "    ```",
            "",
            "```sh",
            "exit 1",
            "```",
            "<!-- tested -->",
            "```python",
            "assert open('count.txt').read().split() == ['2', 'in/words.txt']",
            "```",
            "<!-- tested -->",
            "```python",
            "raise KeyError('the page is wrong')",
            "```",
            "",
        ]
    )
    found = examples(text)
    assert [example.language for example in found] == ["text", "sh", "python", "python"]
    monkeypatch.chdir(tmp_path)
    for example in found[:3]:
        run_example(example, tmp_path)
    with pytest.raises(KeyError, match="the page is wrong"):
        run_example(found[3], tmp_path)


def test_a_command_that_fails_is_a_failure(tmp_path: Path):
    for code in ("false\n", "python -m refusal_lightning store info nowhere\n", "true\nfalse\n"):
        with pytest.raises(AssertionError):
            run_example(Example("sh", code, None), tmp_path)


def test_commands_of_a_shell_example():
    assert commands("a 1 \\\n  2\n\n# why\nfor x in y; do\n  b\ndone\n") == ["a 1    2", "for x in y; do\n  b\ndone"]
