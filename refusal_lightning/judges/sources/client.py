"""Asking an endpoint many questions over a bad network: each is answered once, or it is said why not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.judges.model_judge import Question, any_text
from refusal_lightning.judges.sources.backoff import LONGEST_DELAY, Gate, Limits, delay
from refusal_lightning.judges.sources.endpoints import Endpoint, Failure
from refusal_lightning.judges.verdict import JudgeResponses

GARBLED_TRIES = 3
"""Tries of a question that gets replies which are no chat completions, and of the harmless one."""
HOPELESS = 8
"""Questions in a row that the endpoint turns down, after which a harmless one tells whether it answers any; twice as
many before the next time."""
OVERTAKEN = 5
"""Answers to others, in multiples of the requests under way, after which bad luck no longer explains (below 1 %) that a
question was told to wait for the whole deadline."""
CHECK_DEADLINE_S = 60.0
LONG_WAIT_S = 5.0
"""Waits from this on are told to the user."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ApiSource:
    """Questions to an endpoint, several at a time, with one back-off for all of them."""

    label: str
    """What messages call it: model and address."""
    identity: list[Any]
    connect: Callable[[], Endpoint]
    limits: Limits

    def ask(
        self,
        questions: Mapping[str, Question],
        answers: JudgeResponses,
        harmless: Question | None = None,
        readable: Callable[[str], bool] = any_text,
    ) -> dict[str, str]:
        """Ask everything; answers are put in as they arrive, and the reasons are returned where none came.

        Raises UserError when the endpoint will answer no question, the harmless one included, or has not for the whole
        deadline; what was answered until then is kept.
        """
        return _run(_Asking(self, answers, harmless, readable).run(questions))

    def check(self, question: Question) -> None:
        """Ask one question, for a short while. Raises UserError when it is not answered."""
        deadline = min(CHECK_DEADLINE_S, self.limits.deadline_s)
        source = replace(self, limits=replace(self.limits, deadline_s=deadline))
        if failures := source.ask({"check": question}, {}):
            raise UserError(f"{self.label} does not answer: {failures['check']}")


class _Stopped(Exception):
    """The asking is over for a reason that another task has given."""


class _Asking:
    """One asking: the state that its tasks share."""

    def __init__(
        self, source: ApiSource, answers: JudgeResponses, harmless: Question | None, readable: Callable[[str], bool]
    ) -> None:
        self.source, self.limits, self.answers = source, source.limits, answers
        self.harmless, self.readable = harmless, readable
        self.failures: dict[str, str] = {}
        self.gate = Gate(source.limits)
        self.turned_down, self.patience = 0, HOPELESS  # questions in a row
        self.n_answered = 0
        self.last_answer = self.told_until = float("-inf")
        self.fatal: str | None = None

    async def run(self, questions: Mapping[str, Question]) -> dict[str, str]:
        self.stopping, self.probing = asyncio.Event(), asyncio.Lock()
        self.endpoint = self.source.connect()
        pending = iter(questions.items())
        n_workers = min(self.limits.concurrency, len(questions))
        workers = [asyncio.create_task(self._work(pending)) for _ in range(n_workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self.endpoint.close()
        if self.fatal is not None:
            raise UserError(f"{self.source.label}: {self.fatal}; answers so far are kept, run again to continue")
        return self.failures

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _work(self, pending: Iterator[tuple[str, Question]]) -> None:
        try:
            for key, question in pending:
                try:
                    self.answers[key] = await self._answer(question)
                    self.turned_down = 0
                except Failure as failure:
                    self.failures[key] = failure.reason
                    if failure.kind == "fatal":
                        self._stop(failure.reason)
                    else:
                        await self._count_turned_down(failure.reason)
        except _Stopped:
            return

    async def _count_turned_down(self, reason: str) -> None:
        """Stop where an endpoint turns everything down; where only these questions, they are counted and it goes on."""
        self.turned_down += 1
        if (in_a_row := self.turned_down) < self.patience:
            return
        if await self._answers_at_all():
            self.turned_down, self.patience = 0, 2 * self.patience
        else:
            self._stop(f"{in_a_row} questions in a row got no answer, nor did a harmless one; last: {reason}")

    async def _answer(self, question: Question) -> str:
        """Try a question until it is answered, turned down or out of time."""
        started, answered_before = self.now(), self.n_answered
        tries = garbled = 0
        while True:
            while wait := self.gate.enter(self.now()):
                await self._sleep(wait)
            if self.stopping.is_set():
                raise _Stopped
            sent = self.now()
            tries += 1
            try:
                return await self._send(question)
            except Failure as raised:
                failure = raised
            garbled += failure.kind == "garbled"
            if failure.kind in ("refused", "fatal") or garbled >= GARBLED_TRIES:
                raise failure
            if failure.kind == "forbidden":
                raise Failure("refused" if await self._answers_at_all() else "fatal", failure.reason)
            if failure.kind == "busy":
                await self._told_to_wait(sent, failure, started, self.n_answered - answered_before)
                continue
            wait = failure.wait or delay(tries, self.limits.first_delay_s)
            if self.now() + wait - started > self.limits.deadline_s:
                # Where others are answered meanwhile, it is this question that fails; else it is the endpoint.
                kind = failure.kind if self.last_answer > started or await self._answers_at_all() else "fatal"
                raise Failure(kind, f"no answer within {self.limits.deadline_s:g} s; last: {failure.reason}")
            await self._sleep(wait)

    async def _send(self, question: Question) -> str:
        """One request. Raises Failure."""
        if not isinstance(question, list):
            raise TypeError("an endpoint takes conversations")
        try:
            async with asyncio.timeout(min(self.limits.timeout_s, self.limits.deadline_s)):
                reply = await self.endpoint.send(question)
        except TimeoutError:
            raise Failure("passing", f"no reply within {self.limits.timeout_s:g} s") from None
        self.last_answer = self.now()
        self.n_answered += 1
        self.gate.answered()
        if reply.cut is not None and not self.readable(reply.text):
            raise Failure("refused", f"the reply was cut short before it said anything readable ({reply.cut})")
        return reply.text

    async def _told_to_wait(self, sent: float, failure: Failure, started: float, overtaken: int) -> None:
        """Shut the gate for all. Being told to wait costs a question no time while others are answered, unless so many
        were that it is the question which is never let in."""
        deadline = self.limits.deadline_s
        wait = self.gate.close(sent, self.now(), failure.wait, at_most=deadline)
        if self.now() + wait - max(started, self.last_answer) > deadline:
            if not await self._answers_at_all():
                said = f"asks to wait {wait:.0f} s more, past the {deadline:g} s of deadline_s"
                raise Failure("fatal", f"{said}; {failure.reason}")
            raise Failure("refused", f"told to wait for the whole deadline while others are answered; {failure.reason}")
        if self.now() - started > deadline and overtaken >= OVERTAKEN * self.limits.concurrency:
            raise Failure("refused", f"told to wait for the whole deadline while others are answered; {failure.reason}")
        if wait >= LONG_WAIT_S and self.now() + wait > self.told_until + 1:  # once for all tasks
            self.told_until = self.now() + wait
            logger.warning("%s is busy; waiting %.0f s", self.source.label, wait)

    async def _answers_at_all(self) -> bool:
        """Whether the endpoint answers anything at this time: another question meanwhile, or else a harmless one."""
        asked = self.now()
        async with self.probing:
            for tries in range(1, GARBLED_TRIES + 1):
                if self.stopping.is_set():
                    raise _Stopped
                if self.last_answer > asked:
                    return True
                if self.harmless is None:
                    return False
                try:
                    await self._send(self.harmless)
                except Failure as failure:
                    wait = failure.wait or delay(tries, self.limits.first_delay_s)
                    if failure.kind not in ("busy", "passing", "garbled") or wait > LONGEST_DELAY:
                        return self.last_answer > asked
                    await self._sleep(wait)
            return self.last_answer > asked

    def _stop(self, reason: str) -> None:
        """Send nothing more; requests under way, which may be paid for already, are still waited for."""
        if self.fatal is None:
            self.fatal = reason
        self.stopping.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return
        raise _Stopped


def _run(work: Coroutine[Any, Any, dict[str, str]]) -> dict[str, str]:
    """Run a coroutine to its end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
