"""Judging over a bad network, against a real server: both transports, every kind of failure, nothing asked twice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import random
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from typing import Any

import pytest
from bad_server import LONGEST_HANG_S, Act, BadServer, bad_server

from refusal_lightning.errors import UserError
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.model_judge import ModelJudge
from refusal_lightning.judges.registry import judges_by_name
from refusal_lightning.judges.response_cache import ResponseCache
from refusal_lightning.judges.sources import client
from refusal_lightning.judges.sources.client import GARBLED_TRIES, HOPELESS, ApiSource

KEY = "sk-Test+Key/0123456789"
LONG = "This answer has far more than fifteen words, so that it is sent to the judge as it should be."
SAFE, UNSAFE = Act("safe"), Act("unsafe\nS1")


@pytest.fixture(params=["together", "openai"], autouse=True)
def transport(request, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    return request.param


once = pytest.mark.parametrize("transport", ["openai"], indirect=True)
"""For long tests of what both transports share."""


@pytest.fixture
def judge_at(transport, monkeypatch):
    """``judge_at(server, **limits)``: Llama Guard at a server, impatient, over the transport under test."""

    def make(server: BadServer, timeout_s=5.0, deadline_s=20.0, first_delay_s=0.01, **settings) -> ModelJudge:
        if transport == "together":
            monkeypatch.setenv("TOGETHER_BASE_URL", f"{server.url}/v1/")  # the SDK wants it without /v1
        else:
            settings |= {"llama_guard_url": f"{server.url}/v1", "llama_guard_key_env": "TOGETHER_API_KEY"}
        chosen = JudgeSettings(timeout_s=timeout_s, deadline_s=deadline_s, **settings)
        judge = judges_by_name(["llama_guard"], chosen)["llamaguard2"]
        assert isinstance(judge, ModelJudge) and isinstance(judge.source, ApiSource)
        limits = dataclasses.replace(judge.source.limits, first_delay_s=first_delay_s)
        return dataclasses.replace(judge, source=dataclasses.replace(judge.source, limits=limits))

    return make


def _pairs(n: int) -> list[tuple[str, str]]:
    return [(f"question {i}", LONG) for i in range(n)]


def _always(act: Act, question: str, tries: int) -> Act:
    return act


def _right(question: str) -> Act:
    return UNSAFE if int(question.split()[-1]) % 3 == 0 else SAFE


def _mishap(rng: random.Random) -> Act:
    return rng.choice(
        [
            Act(status=429, headers={"Retry-After": "0.01"}),
            Act(status=429, headers={"retry-after-ms": "5"}),
            Act(status=429),
            Act(status=500, body="oops", content_type="text/plain"),
            Act(status=502, body="<html>Bad gateway</html>", content_type="text/html"),
            Act(status=503, headers={"Retry-After": "0.02"}),
            Act(status=408),
            Act(status=409),
            Act(drop=True),
            Act(promise=40),
            Act(hang=LONGEST_HANG_S, status=500),
        ]
    )


def test_a_thousand_requests_of_all_kinds(judge_at, transport, tmp_path):
    """Every completion is judged exactly once, and rightly, whatever happens on the way."""
    rng, hangs = random.Random(7), 0
    count = 500 if transport == "openai" else 60  # a thousand requests and more over one of the two

    def behave(question: str, tries: int) -> Act:
        nonlocal hangs
        act = _mishap(rng) if tries <= 6 and rng.random() < 0.55 else _right(question)
        if act.hang:
            hangs += 1
            if hangs > 5:
                return Act(status=500)
        return act

    pairs = _pairs(count)
    with bad_server(behave) as server:
        path = tmp_path / "answers.jsonl"
        verdicts = judge_at(server, timeout_s=2.0, concurrency=16)(pairs + pairs[:20], ResponseCache(path))
        assert len(server.requests) >= (1000 if count == 500 else 100)
        assert set(server.answered.values()) == {1}
        assert len(server.answered) == count
        assert server.most_at_once <= 16 + hangs, "a request that was given up may still hang at the server"
        assert server.paths == {"/v1/chat/completions"}
        assert server.keys == {f"Bearer {KEY}"}
        asked = len(server.requests)
        again = judge_at(server)(pairs, ResponseCache(path))
        assert len(server.requests) == asked, "what is on disk is not asked again"
    assert [v.complied for v in verdicts] == [i % 3 == 0 for i in [*range(count), *range(20)]]
    assert again == verdicts[:count]
    assert KEY not in path.read_text()


def test_the_request_is_what_the_model_wants(judge_at):
    with bad_server(lambda question, tries: SAFE) as server:
        judge_at(server, llama_guard_model="some/guard-2")([("question 1", LONG)], {})
        (request,) = server.requests
    assert request["model"] == "some/guard-2"
    assert request["temperature"] == 0
    assert request["max_tokens"] == 32
    assert [(m["role"], m["content"]) for m in request["messages"]] == [("user", "question 1"), ("assistant", LONG)]


@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds"])
def test_retry_after_holds_all_tasks(judge_at, form, monkeypatch, caplog):
    """After one 429 nobody knocks before the time that the server named, and the user is told once."""
    monkeypatch.setattr(client, "LONG_WAIT_S", 0.1)
    told: list[float] = []

    def behave(question: str, tries: int) -> Act:
        if len(told) < 4 and tries == 1:
            told.append(time.monotonic())
            now = time.time()
            header = {
                "seconds": {"Retry-After": "0.5"},
                "date": {"Retry-After": formatdate(now + 1, usegmt=True), "Date": formatdate(now, usegmt=True)},
                "milliseconds": {"retry-after-ms": "500"},
            }[form]
            return Act(status=429, headers=header)
        return _right(question)

    wait = 1.0 if form == "date" else 0.5
    with bad_server(behave) as server:
        verdicts = judge_at(server, concurrency=4)(_pairs(12), {})
        early = [t for t in server.times[4:] if t < told[0] + 0.95 * wait]
    assert len(server.requests) == 16
    assert not early
    assert caplog.text.count("is busy; waiting") == 1
    assert all(v.complied is not None for v in verdicts)


def test_a_wait_longer_than_a_minute_is_honoured(judge_at, monkeypatch, caplog):
    """With a clock that leaps over every sleep."""
    leaped, slept = 0.0, []
    real_now = client._Asking.now

    async def leap(self, seconds: float) -> None:
        nonlocal leaped
        slept.append(seconds)
        leaped += seconds

    monkeypatch.setattr(client._Asking, "_sleep", leap)
    monkeypatch.setattr(client._Asking, "now", lambda self: real_now(self) + leaped)

    def behave(question: str, tries: int) -> Act:
        return Act(status=429, headers={"Retry-After": "90"}) if tries == 1 else SAFE

    with bad_server(behave) as server, caplog.at_level(logging.WARNING):
        (verdict,) = judge_at(server, deadline_s=600.0)([("question 1", LONG)], {})
    assert verdict.complied is False
    assert slept == [pytest.approx(90, abs=0.5)]
    assert "waiting 90 s" in caplog.text


def test_a_wait_past_the_deadline_ends_it_at_once(judge_at):
    with bad_server(lambda q, n: Act(status=429, headers={"Retry-After": "7200"}, body="daily limit")) as server:
        started = time.monotonic()
        with pytest.raises(UserError, match=r"7200 s more.*daily limit.*run again to continue"):
            judge_at(server)(_pairs(20), {})
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_hopeless_statuses_end_it_at_once(judge_at, status):
    with bad_server(lambda q, n: Act(status=status, body=json.dumps({"error": {"message": "no way"}}))) as server:
        with pytest.raises(UserError, match=f"HTTP {status}") as caught:
            judge_at(server, concurrency=4)(_pairs(50), {})
        assert len(server.requests) <= 4 + (status == 403), "403 may be about the question: a harmless one tells"
    assert "\n" not in str(caught.value)
    assert "no way" in str(caught.value)


@once
def test_no_credit_halfway_keeps_what_was_paid_for(judge_at, tmp_path):
    """Answers under way when the credit ends are kept, and the next run asks only for the rest."""
    paid = 0

    def behave(question: str, tries: int) -> Act:
        nonlocal paid
        if rich or paid < 10:
            paid += 1
            return dataclasses.replace(_right(question), hang=0.3) if paid == 10 else _right(question)
        return Act(status=402)

    rich, pairs, path = False, _pairs(40), tmp_path / "answers.jsonl"
    with bad_server(behave) as server:
        with pytest.raises(UserError, match="no credit left"):
            judge_at(server, concurrency=3)(pairs, ResponseCache(path))
        assert len(ResponseCache(path)) == 10
        rich = True
        verdicts = judge_at(server, concurrency=3)(pairs, ResponseCache(path))
        assert sum(server.answered.values()) == 40
    assert [v.complied for v in verdicts] == [i % 3 == 0 for i in range(40)]


GARBAGE = {
    "html": Act(body="<html>Welcome to the hotel network</html>", content_type="text/html"),
    "html as json": Act(body="<html>Welcome</html>"),
    "cut json": Act(body='{"choices": [{"message": {"content": "saf'),
    "no choices": Act(body='{"choices": []}'),
    "null choices": Act(body='{"choices": null}'),
    "wrong schema": Act(body='{"choices": [{"text": "safe"}]}'),
    "a list": Act(body="[1, 2]"),
    "a number": Act(body="3"),
    "nothing": Act(body=""),
    "content of another type": Act(content=[{"type": "text", "text": "safe"}]),
    "no content": Act(content=None),
    "nested beyond reason": Act(body='{"choices": ' + "[" * 200_000),
    "not utf-8 text": Act(body="\x00\x01"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_with_200_is_no_verdict(judge_at, garbage):
    """A few tries, then the question is given up: never safe, never unsafe, never kept as an answer."""
    answers: dict[str, str] = {}
    with bad_server(lambda q, n: garbage if q == "question 1" else _right(q)) as server:
        verdicts = judge_at(server)(_pairs(3), answers)
        assert server.tries["question 1"] == GARBLED_TRIES
    assert [v.complied for v in verdicts] == [True, None, False]
    assert verdicts[1].note and "reply" in verdicts[1].note
    assert len(answers) == 2


def test_garbage_once_is_tried_again(judge_at):
    with bad_server(lambda q, n: GARBAGE["html"] if n == 1 else _right(q)) as server:
        assert [v.complied for v in judge_at(server)(_pairs(4), {})] == [True, False, False, True]
        assert set(server.tries.values()) == {2}


def test_an_unreadable_answer_is_kept_and_not_paid_for_again(judge_at):
    answers: dict[str, str] = {}
    with bad_server(lambda q, n: Act("As a judge, I would say it depends.")) as server:
        judge = judge_at(server)
        first, second = judge([("question 1", LONG)], answers), judge([("question 1", LONG)], answers)
        assert len(server.requests) == 1
        assert first == second
        (in_paper,) = judge_at(server, paper=True)([("question 1", LONG)], answers)
        assert len(server.requests) == 1, "another way of reading asks nothing"
    assert (first[0].complied, first[0].raw) == (None, "As a judge, I would say it depends.")
    assert in_paper.complied is True


def test_an_error_dressed_up_as_success(judge_at):
    """Some gateways put the status into the body of a 200."""
    limited = Act(body=json.dumps({"error": {"code": 429, "message": "slow down"}}))
    with bad_server(lambda q, n: limited if n == 1 else _right(q)) as server:
        assert judge_at(server)([("question 1", LONG)], {})[0].complied is False
    for code, status in ((401, 401), ("401", 401), ("insufficient_quota", 402)):
        fatal = Act(body=json.dumps({"error": {"code": code, "message": "who?"}}))
        with bad_server(functools.partial(_always, fatal)) as server, pytest.raises(UserError, match=f"HTTP {status}"):
            judge_at(server)([("question 1", LONG)], {})


def test_a_question_that_is_turned_down_leaves_the_others_alone(judge_at):
    """A 400, say for a text that is too long, is not tried again and not kept."""
    too_long = Act(status=400, body='{"error": {"message": "context length exceeded"}}')
    answers: dict[str, str] = {}
    with bad_server(lambda q, n: too_long if q == "question 2" else _right(q)) as server:
        verdicts = judge_at(server)(_pairs(6), answers)
        assert set(server.tries.values()) == {1}
    assert [v.complied for v in verdicts] == [True, False, None, True, False, False]
    assert "context length exceeded" in str(verdicts[2].note)
    assert len(answers) == 5


def test_many_questions_turned_down_but_not_in_a_row_stop_nothing(judge_at):
    n = 3 * (HOPELESS + 2)
    with bad_server(lambda q, tries: Act(status=400) if _right(q) is UNSAFE else SAFE) as server:
        verdicts = judge_at(server, concurrency=2)(_pairs(n), {})
    assert [v.complied for v in verdicts] == [None if i % 3 == 0 else False for i in range(n)]


def test_an_endpoint_that_turns_everything_down_is_left_alone_soon(judge_at):
    with bad_server(lambda q, n: Act(status=400, body="unknown model")) as server:
        with pytest.raises(UserError, match=r"in a row.*unknown model"):
            judge_at(server, concurrency=2)(_pairs(100), {})
        assert len(server.requests) <= HOPELESS + 2


@once
def test_one_poisonous_question_does_not_stop_the_rest(judge_at):
    """It fails for its deadline while others are answered: it is given up, not the endpoint."""

    def behave(question: str, tries: int) -> Act:
        if question == "question 0":
            return Act(status=500)
        return dataclasses.replace(SAFE, hang=0.1)

    with bad_server(behave) as server:
        verdicts = judge_at(server, deadline_s=0.8, concurrency=2, first_delay_s=0.05)(_pairs(15), {})
        assert server.tries["question 0"] > 2
    assert [v.complied for v in verdicts] == [None] + [False] * 14
    assert "HTTP 500" in str(verdicts[0].note)


@pytest.mark.parametrize("act", [Act(status=500), Act(hang=4.0), Act(drop=True)], ids=["500", "hang", "drop"])
def test_a_dead_endpoint_ends_it_after_the_deadline(judge_at, act):
    with bad_server(lambda q, n: act) as server:
        started = time.monotonic()
        with pytest.raises(UserError, match=r"no answer within 0.6 s; last: .*run again to continue"):
            judge_at(server, timeout_s=0.15, deadline_s=0.6, first_delay_s=0.05)(_pairs(30), {})
        assert time.monotonic() - started < 3
        assert len(server.requests) > 8


def test_a_silent_endpoint_holds_a_check_no_longer_than_its_deadline(judge_at):
    with bad_server(lambda q, n: Act(hang=4.0)) as server:
        started = time.monotonic()
        with pytest.raises(UserError, match=r"no answer within 0\.3 s"):
            judge_at(server, timeout_s=30.0, deadline_s=0.3).check()
        assert time.monotonic() - started < 2


def test_nobody_listens(judge_at):
    with bad_server(lambda q, n: SAFE) as server:
        pass
    with pytest.raises(UserError, match=r"no answer within 0\.5 s"):
        judge_at(server, deadline_s=0.5)(_pairs(3), {})
    with pytest.raises(UserError, match=r"llama_guard \(.*no answer within 0.5 s"):
        judge_at(server, deadline_s=0.5).check()


@once
def test_concurrency_and_pace_are_kept(judge_at):
    with bad_server(lambda q, n: dataclasses.replace(SAFE, hang=0.02)) as server:
        judge_at(server, concurrency=3)(_pairs(30), {})
        assert server.most_at_once == 3
    with bad_server(lambda q, n: SAFE) as server:
        judge_at(server, requests_per_minute=1200)(_pairs(8), {})
        assert server.times[-1] - server.times[0] > 0.3


def test_check_asks_once_and_tells_what_is_wrong(judge_at):
    with bad_server(lambda q, n: SAFE) as server:
        judge_at(server).check()
        assert len(server.requests) == 1
    with bad_server(lambda q, n: Act(status=401)) as server, pytest.raises(UserError, match="key is not accepted"):
        judge_at(server).check()
    with (
        bad_server(lambda q, n: Act(status=400, body="no model")) as server,
        pytest.raises(UserError, match="no model"),
    ):
        judge_at(server).check()


@pytest.mark.parametrize("status", [200, 401])
def test_connections_are_closed_in_the_end(judge_at, status):
    opened: list[Any] = []
    with bad_server(lambda q, n: Act(status=status)) as server:
        judge = judge_at(server)
        connect = judge.source.connect

        def connect_and_tell() -> Any:
            opened.append(connect())
            return opened[-1]

        source = dataclasses.replace(judge.source, connect=connect_and_tell)
        with contextlib.suppress(UserError):
            dataclasses.replace(judge, source=source)(_pairs(3), {})
    (endpoint,) = opened
    closed = endpoint._client.is_closed
    assert closed() if callable(closed) else closed


def test_works_where_an_event_loop_runs(judge_at):
    """As in a notebook."""
    import asyncio

    async def cell() -> bool | None:
        return judge([("question 3", LONG)], {})[0].complied

    with bad_server(lambda q, n: _right(q)) as server:
        judge = judge_at(server)
        assert asyncio.run(cell()) is True


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_a_key_that_the_server_echoes_is_told_nobody(judge_at, status, caplog, capsys, tmp_path):
    echo = f'{{"error": "you sent Bearer {KEY}"}}'
    act = Act(f"safe, and your key is {KEY}") if status == 200 else Act(status=status, body=echo)
    path, note = tmp_path / "answers.jsonl", ""
    caplog.set_level(logging.DEBUG)
    with bad_server(lambda q, n: act) as server:
        judge = judge_at(server, deadline_s=0.3)
        try:
            note = repr(judge([("question 1", LONG)], ResponseCache(path)))
        except UserError as error:
            chain: BaseException | None = error
            while chain is not None:
                note += repr(chain)
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        note += repr(judge)
    told = note + caplog.text + "".join(capsys.readouterr()) + (path.read_text() if path.exists() else "")
    assert KEY not in told
    assert "[key]" in told


SCRIPT = """
import sys
from refusal_lightning.judges.config import JudgeConfig
from refusal_lightning.judges.judge_file import judge_completions
folder, url = sys.argv[1:]
judge_completions(JudgeConfig(completions=f"{folder}/in.json", out=f"{folder}/out.json", judges=["llama_guard"],
                              concurrency=2, llama_guard_url=url, llama_guard_key_env="TOGETHER_API_KEY"))
"""


@once
def test_a_killed_judging_continues(tmp_path):
    """kill -9, twice; what was answered is never asked again, and the result is that of an undisturbed run."""
    rows = [{"category": "c", "prompt": f"question {i}", "response": LONG} for i in range(45)]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    path = tmp_path / "out.json.answers.jsonl"
    with bad_server(lambda q, n: dataclasses.replace(_right(q), hang=0.02)) as server:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), f"{server.url}/v1"]
        for stop_at in (12, 28):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            while len(server.requests) < stop_at and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (tmp_path / "out.json").exists()
            kept = len(ResponseCache(path))
            assert kept >= stop_at - 4
        subprocess.run(command, capture_output=True, text=True, check=True)
        assert len(ResponseCache(path)) == 45
        assert sum(server.tries.values()) <= 45 + 2 * 2, "only what was under way at a kill is asked again"
    evaluation = json.loads((tmp_path / "out.json").read_text())
    assert evaluation["llamaguard2_counts"] == {"complied": 15, "judged": 45, "unjudged": 0}
    assert KEY not in path.read_text() + (tmp_path / "out.json").read_text()
