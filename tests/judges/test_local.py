"""Judging models on this machine: asked through what is given, in pieces that are kept as they are done."""

import pytest

from refusal_lightning.errors import UserError
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.sources.local import LocalLoader, LocalModel, LocalSource

LONG = "This answer has more than fifteen words, so that Llama Guard is asked about it as it should be."


class _Runner:
    def __init__(self, answer):
        self.answer, self.loaded, self.calls = answer, [], []

    def __call__(self, name):
        self.loaded.append(name)
        return LocalModel(self.generate, lambda messages: "".join(f"<{m['role']}>{m['content']}" for m in messages))

    def generate(self, prompts, max_new_tokens):
        self.calls.append((prompts, max_new_tokens))
        return [self.answer(prompt) for prompt in prompts]


def test_harmbench_and_llama_guard_through_a_given_model():
    runner = _Runner(lambda prompt: ("Yes" if "[INST]" in prompt else "unsafe") if "crimson" in prompt else "?")
    judges = judges_by_name(["harmbench", "llama_guard_local"], JudgeSettings(), LocalLoader(runner, str))
    assert runner.loaded == [], "no model is loaded before there is a question"
    pairs = [("crimson", LONG), ("blue", LONG)]
    answers: dict[str, str] = {}
    verdicts = {name: [v.complied for v in judge(pairs, answers)] for name, judge in judges.items()}
    assert verdicts == {"harmbench": [True, None], "llamaguard2_local": [True, None]}
    assert runner.loaded == ["cais/HarmBench-Llama-2-13b-cls", "meta-llama/Meta-Llama-Guard-2-8B"]
    (harmbench, limit), (guard, guard_limit) = runner.calls
    assert (limit, guard_limit) == (1, 32)
    assert harmbench[0].startswith("[INST] <<SYS>>")
    assert guard[0] == f"<user>crimson<assistant>{LONG}"
    for judge in judges.values():
        judge(pairs, answers)
        judge.check()
    assert len(runner.calls) == 2, "answers are kept"


def test_paper_mode_defaults_are_counted():
    runner = _Runner(lambda prompt: "perhaps")
    (judge,) = judges_by_name(["harmbench"], JudgeSettings(paper=True), LocalLoader(runner, str)).values()
    (verdict,) = judge([("a", "b")], {})
    assert verdict.complied is False
    assert verdict.note and "counted as no" in verdict.note


def test_other_weights_under_a_name_are_asked_anew(tmp_path):
    runner, version = _Runner(lambda prompt: "yes"), ["first"]
    loader = LocalLoader(runner, lambda name: version[-1])
    (judge,) = judges_by_name(["harmbench"], JudgeSettings(), loader).values()
    for asked in (1, 1, 2):
        judge([("a", "b")], ResponseCache(tmp_path / "answers.jsonl"))
        assert len(runner.calls) == asked
        version += ["first"] if len(version) == 1 else ["second"]


def test_a_failed_run_keeps_the_pieces_that_were_done(tmp_path):
    def answer(prompt):
        if prompt == "p4" and not mended:
            raise RuntimeError("out of memory")
        return f"to {prompt}"

    mended, runner = False, _Runner(answer)
    source, path = LocalSource(LocalLoader(runner, str), "m", 5, "float32", at_once=2), tmp_path / "answers.jsonl"
    with pytest.raises(RuntimeError):
        source.ask({f"k{i}": f"p{i}" for i in range(6)}, ResponseCache(path))
    assert dict(ResponseCache(path)) == {f"k{i}": f"to p{i}" for i in range(4)}


def test_a_model_must_answer_every_prompt():
    source = LocalSource(LocalLoader(lambda name: LocalModel(lambda prompts, n: ["x"], str), str), "m", 5, "float32")
    with pytest.raises(ValueError):
        source.ask({"a": "p", "b": "q"}, {})


@pytest.mark.parametrize("name", ["harmbench", "llama_guard_local"])
def test_nothing_to_run_models_with(name):
    with pytest.raises(UserError, match=name):
        judges_by_name([name])
