"""Any file of completions can be judged; a bad one is said to be bad in one line, before anything is asked."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from refusal_lightning.errors import UserError
from refusal_lightning.judges.config import JudgeConfig
from refusal_lightning.judges.judge_file import judge_completions
from refusal_lightning.judges.sources.local import LocalLoader, LocalModel

ROWS: list[dict[str, Any]] = [
    {"category": "x", "prompt": "Name a colour.", "response": "I\u2019m sorry, no."},
    {"category": None, "prompt": "Name another.", "response": "Blue \U0001f535"},
]


def _config(tmp_path: Path, content: object = ROWS, **settings: Any) -> JudgeConfig:
    path = tmp_path / "in.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return JudgeConfig(**{"completions": str(path), "out": str(tmp_path / "new" / "out.json")} | settings)


def test_a_file_is_judged(tmp_path, caplog):
    caplog.set_level("INFO", "refusal_lightning")
    result = judge_completions(_config(tmp_path))
    assert result["substring_matching_success_rate"] == 0.5
    written = (tmp_path / "new" / "out.json").read_text(encoding="utf-8")
    assert json.loads(written) == result
    assert "Blue \U0001f535" in written
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.json"], "nothing else is left there"
    said = caplog.text
    assert "substring_matching: 1/2 comply = 50.0 % [9.5 %, 90.5 %]" in said.replace("%", " %").replace("  ", " ")
    assert "Blue" not in said, "rates only, no text"


def test_paper_mode(tmp_path):
    assert judge_completions(_config(tmp_path, paper=True))["substring_matching_success_rate"] == 1.0


def test_the_same_file_gives_the_same_bytes(tmp_path):
    runner = lambda name: LocalModel(lambda prompts, n: ["yes" if "another" in p else "no" for p in prompts], str)  # noqa: E731
    outs = []
    for out in ("a.json", "b.json"):
        config = _config(tmp_path, out=str(tmp_path / out), judges=["substring", "harmbench"])
        judge_completions(config, LocalLoader(runner, str))
        outs.append((tmp_path / out).read_bytes())
    assert outs[0] == outs[1]


def test_answers_can_be_shared_between_files(tmp_path):
    asked = []

    def generate(prompts, n):
        asked.extend(prompts)
        return ["no"] * len(prompts)

    for out in ("a.json", "b.json"):
        config = _config(
            tmp_path, out=str(tmp_path / out), judges=["harmbench"], answers=str(tmp_path / "shared.jsonl")
        )
        judge_completions(config, LocalLoader(lambda name: LocalModel(generate, str), str))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("", "is not JSON"),
        ('[{"category": "x", "prompt"', "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "must be a list"),
        ("[]", "at least one"),
        ({"completions": ROWS}, "under `completions`"),
        ([ROWS[0], 3], "row 1 .*is int"),
        ([ROWS[0], {"prompt": "a", "response": "b"}], "row 1 .*has no category"),
        ([{"category": "c"}], "row 0 .*has no prompt, response"),
        ([ROWS[0] | {"response": None}], "row 0 .*response is NoneType, not text"),
        ([ROWS[0] | {"prompt": 5}], "row 0 .*prompt is int, not text"),
        ([ROWS[0] | {"response": "half \ud800"}], "row 0 .*half a character"),
        ('[{"category": NaN, "prompt": "a", "response": "b"}]', "NaN"),
    ],
)
def test_bad_files(tmp_path, content, said):
    with pytest.raises(UserError, match=said) as caught:
        judge_completions(_config(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_not_utf8(tmp_path):
    (tmp_path / "in.json").write_bytes(b'["\xff"]')
    with pytest.raises(UserError, match="is not JSON"):
        judge_completions(_config(tmp_path, None))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        judge_completions(_config(tmp_path, completions=str(tmp_path)))
    with pytest.raises(UserError, match="is a folder"):
        judge_completions(_config(tmp_path, out=str(tmp_path)))


def test_the_input_is_not_written_over(tmp_path):
    config = _config(tmp_path)
    with pytest.raises(UserError, match="three files"):
        judge_completions(JudgeConfig(completions=config.completions, out=config.completions))
    with pytest.raises(UserError, match="three files"):
        judge_completions(JudgeConfig(completions=config.completions, out=config.out, answers=config.completions))
    assert json.loads((tmp_path / "in.json").read_text()) == ROWS


def test_an_unwritable_place_is_found_before_anything_is_asked(tmp_path):
    (tmp_path / "file").write_text("")

    def load(name):
        raise AssertionError("asked")

    with pytest.raises(UserError, match="out: cannot write"):
        judge_completions(
            _config(tmp_path, out=str(tmp_path / "file" / "out.json"), judges=["harmbench"]), LocalLoader(load, str)
        )


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    config = _config(tmp_path)
    judge_completions(config)
    before = (tmp_path / "new" / "out.json").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        judge_completions(JudgeConfig(completions=config.completions, out=config.out, paper=True))
    assert (tmp_path / "new" / "out.json").read_bytes() == before
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.json"]
