"""Questions that an endpoint never answers: counted, in every run, in a result file that is there in the end."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from bad_server import Act, BadServer, bad_server

from refusal_lightning.errors import UserError
from refusal_lightning.judges.config import JudgeConfig, JudgeSettings
from refusal_lightning.judges.judge_file import judge_completions
from refusal_lightning.judges.model_judge import ModelJudge
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.sources.client import GARBLED_TRIES, HOPELESS, ApiSource

LONG = "This answer has far more than fifteen words, so that it is sent to the judge as it should be."
HARMLESS = "Name a colour."
FILTERED = Act(status=400, body=json.dumps({"error": {"code": "content_filter", "message": "filtered"}}))
MODERATED = Act(status=403, body=json.dumps({"error": {"code": 403, "message": "your input was flagged"}}))
TOO_LARGE = Act(
    status=429,
    body=json.dumps(
        {
            "error": {
                "message": "Request too large for m on tokens per min (TPM): Limit 30000, Requested 30001.",
                "type": "tokens",
                "code": "rate_limit_exceeded",
            }
        }
    ),
)
NO_CREDIT = Act(status=429, body=json.dumps({"error": {"type": "insufficient_quota", "message": "check your plan"}}))
BUSY = Act(status=429)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def judge_at(server: BadServer, deadline_s: float = 20.0, **settings: Any) -> ModelJudge:
    """Llama Guard at a server, impatient."""
    chosen = JudgeSettings(llama_guard_url=f"{server.url}/v1", timeout_s=5.0, deadline_s=deadline_s, **settings)
    judge = judges_by_name(["llama_guard"], chosen)["llamaguard2"]
    assert isinstance(judge, ModelJudge) and isinstance(judge.source, ApiSource)
    limits = dataclasses.replace(judge.source.limits, first_delay_s=0.01)
    return dataclasses.replace(judge, source=dataclasses.replace(judge.source, limits=limits))


def pairs(*numbers: int) -> list[tuple[str, str]]:
    return [(f"question {i}", LONG) for i in numbers]


def turns_down(act: Act, *numbers: int):
    """A behaviour: this act for some questions, and safe for all others."""
    return lambda question, tries: act if question in {f"question {i}" for i in numbers} else Act("safe")


def config_for(folder: Path, server: BadServer, n: int, **settings: Any) -> JudgeConfig:
    rows = [{"category": "c", "prompt": prompt, "response": response} for prompt, response in pairs(*range(n))]
    (folder / "in.json").write_text(json.dumps(rows))
    return JudgeConfig(
        completions=str(folder / "in.json"),
        out=str(folder / "out.json"),
        judges=["llama_guard"],
        llama_guard_url=f"{server.url}/v1",
        **settings,
    )


@pytest.mark.parametrize("first", [0, 10], ids=["refused first", "refused last"])
@pytest.mark.parametrize("act", [FILTERED, MODERATED, TOO_LARGE], ids=["400", "403", "429 too large"])
def test_more_refused_questions_than_make_an_endpoint_hopeless(tmp_path: Path, act: Act, first: int) -> None:
    """The result is written in the first run and in each further one, which ask the refused ones again, once."""
    refused = range(first, first + 10)
    with bad_server(turns_down(act, *refused)) as server:
        config = config_for(tmp_path, server, 20)
        for run in (1, 2, 3):
            (tmp_path / "out.json").unlink(missing_ok=True)
            found = judge_completions(config)
            assert json.loads((tmp_path / "out.json").read_text()) == found
            assert found["llamaguard2_counts"] == {"complied": 0, "judged": 10, "unjudged": 10}
            assert {server.tries[f"question {i}"] for i in refused} == {run}
        assert {server.tries[f"question {i}"] for i in range(20) if i not in refused} == {1}
    (note,) = found["llamaguard2_notes"]
    assert note.startswith(f"no answer: HTTP {act.status}")


def test_thousands_of_refused_questions_cost_few_harmless_ones() -> None:
    with bad_server(lambda question, tries: Act("safe") if question == HARMLESS else FILTERED) as server:
        verdicts = judge_at(server)(pairs(*range(200)), {})
        assert server.tries[HARMLESS] <= 5
    assert [v.complied for v in verdicts] == [None] * 200


def test_an_endpoint_that_turns_down_a_harmless_question_too_is_hopeless() -> None:
    with bad_server(lambda question, tries: FILTERED) as server:
        with pytest.raises(UserError, match=r"8 questions in a row .* nor did a harmless one; last: HTTP 400"):
            judge_at(server, concurrency=1)(pairs(*range(100)), {})
        assert len(server.requests) == HOPELESS + 1


def test_the_same_question_is_turned_down_once_in_a_run() -> None:
    with bad_server(turns_down(FILTERED, 1)) as server:
        judge = judge_at(server)
        for _ in range(2):
            assert judge(pairs(1), {})[0].note == judge(pairs(0, 1), {})[1].note
        assert server.tries["question 1"] == 1


def test_no_credit_is_said_at_once() -> None:
    with bad_server(lambda question, tries: NO_CREDIT) as server:
        started = time.monotonic()
        with pytest.raises(UserError, match=r"no credit left.*check your plan") as caught:
            judge_at(server, concurrency=2)(pairs(*range(20)), {})
        assert time.monotonic() - started < 3
        assert len(server.requests) <= 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("act", [BUSY, Act(status=429, headers={"Retry-After": "0.05"}), Act(status=500)])
def test_a_question_that_is_never_let_in(act: Act) -> None:
    """With others beside it, and alone in the next run, where only a harmless question tells that all is well."""
    answers: dict[str, str] = {}
    with bad_server(turns_down(act, 0)) as server:
        for _ in range(2):
            verdicts = judge_at(server, deadline_s=0.4, concurrency=2)(pairs(*range(6)), answers)
            assert [v.complied for v in verdicts] == [None, *[False] * 5]
            assert "429" in str(verdicts[0].note) or "500" in str(verdicts[0].note)
        assert server.tries[HARMLESS] in (1, 2)
    assert len(answers) == 5


def test_a_wait_for_days_is_that_question_s_where_others_are_answered() -> None:
    with bad_server(turns_down(Act(status=429, headers={"Retry-After": "90000"}), 0)) as server:
        verdicts = judge_at(server, concurrency=2)(pairs(*range(20)), {})
    assert [v.complied for v in verdicts] == [None, *[False] * 19]


def test_a_question_that_others_overtake_does_not_hold_them_up_for_ever() -> None:
    """It is given up at its deadline though others are still answered, so it need not be the last one."""
    slow = dataclasses.replace(Act("safe"), hang=0.02)
    answers: dict[str, str] = {}
    with bad_server(lambda question, tries: BUSY if question == "question 0" else slow) as server:
        judge_at(server, deadline_s=0.3, concurrency=2)(pairs(*range(60)), answers)
        last = [request["messages"][0]["content"] for request in server.requests[-20:]]
    assert "question 0" not in last and len(answers) == 59


def test_an_endpoint_that_is_busy_for_all_is_not_blamed_on_the_questions() -> None:
    with bad_server(lambda question, tries: BUSY) as server:
        with pytest.raises(UserError, match=r"past the 0\.4 s of deadline_s; HTTP 429.*run again to continue"):
            judge_at(server, deadline_s=0.4)(pairs(*range(4)), {})
        assert 0 < server.tries[HARMLESS] <= GARBLED_TRIES


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_a_reply_that_is_cut_short(finish: str) -> None:
    """What it says is taken where it says enough; else there is no answer, and nothing is kept."""
    cut = {
        "question 0": Act("unsafe\nS1,", finish=finish),
        "question 1": Act("Let me see, the user", finish=finish),
        "question 2": Act(None, finish=finish),
        "question 3": Act("", finish=finish),
    }
    answers: dict[str, str] = {}
    with bad_server(lambda question, tries: cut[question]) as server:
        verdicts = judge_at(server)(pairs(0, 1, 2, 3), answers)
        assert len(server.requests) == 4
    assert [v.complied for v in verdicts] == [True, None, None, None]
    assert all("limit of tokens" in str(v.note) or "content filter" in str(v.note) for v in verdicts[1:])
    assert list(answers.values()) == ["unsafe\nS1,"]


def test_half_a_character_in_a_reply(tmp_path: Path) -> None:
    """JSON may spell a lone surrogate, which no file can hold."""
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "unsafe\nS1 \ud83d"}}]})
    assert "\\ud83d" in body
    with bad_server(lambda question, tries: Act(body=body)) as server:
        config = config_for(tmp_path, server, 2)
        for _ in range(2):
            found = judge_completions(config)
            assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == found
        assert len(server.requests) == 2
    assert {row["raw_llamaguard2"] for row in found["completions"]} == {"unsafe\nS1 \N{REPLACEMENT CHARACTER}"}


def test_half_a_character_that_was_kept_before(tmp_path: Path) -> None:
    """As files of answers of earlier versions may have it."""
    with bad_server(lambda question, tries: Act("unsafe")) as server:
        config = config_for(tmp_path, server, 2)
        judge_completions(config)
        path = tmp_path / "out.json.answers.jsonl"
        path.write_text(path.read_text().replace("unsafe", "unsafe \\ud83d"))
        assert judge_completions(config)["llamaguard2_counts"]["complied"] == 2
        assert len(server.requests) == 2
    assert set(ResponseCache(path).values()) == {"unsafe \N{REPLACEMENT CHARACTER}"}


def test_half_a_character_in_a_question_is_not_sent() -> None:
    with bad_server(lambda question, tries: Act("safe")) as server:
        verdicts = judge_at(server)([("question \ud83d", LONG), ("question 1", f"{LONG} \ude00"), *pairs(2)], {})
        assert len(server.requests) == 1
    assert [v.complied for v in verdicts] == [None, None, False]


def test_a_place_for_answers_that_cannot_be_written_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with bad_server(lambda question, tries: Act("safe")) as server:
        with pytest.raises(UserError, match="answers: cannot write"):
            judge_completions(config_for(tmp_path, server, 2, answers=str(tmp_path / "file" / "answers.jsonl")))
        assert not server.requests
