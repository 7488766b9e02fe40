"""Asking an endpoint many questions over a bad network: each is answered once, or it is said why not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from refusal_lightning.errors import UserError
from refusal_lightning.judges.asking import Question
from refusal_lightning.judges.backoff import Gate, Limits, delay
from refusal_lightning.judges.endpoints import Endpoint, Failure
from refusal_lightning.judges.verdict import Answers

GARBLED_TRIES = 3
"""Tries of a question that gets replies which are no chat completions."""
HOPELESS = 8
"""Questions in a row that the endpoint turns down, after which the rest is not asked."""
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

    def ask(self, questions: Mapping[str, Question], answers: Answers) -> dict[str, str]:
        """Ask everything; answers are put in as they arrive, and the reasons are returned where none came.

        Raises UserError when the endpoint will answer no question, or has not for the whole deadline; what was
        answered until then is kept.
        """
        return _run(_Asking(self, answers).run(questions))

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

    def __init__(self, source: ApiSource, answers: Answers) -> None:
        self.source, self.limits, self.answers = source, source.limits, answers
        self.failures: dict[str, str] = {}
        self.gate = Gate(source.limits)
        self.turned_down = 0  # questions in a row
        self.last_answer = self.told_until = float("-inf")
        self.fatal: str | None = None

    async def run(self, questions: Mapping[str, Question]) -> dict[str, str]:
        self.stopping = asyncio.Event()
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
        for key, question in pending:
            try:
                answer = await self._answer(question)
            except _Stopped:
                return
            except Failure as failure:
                self.failures[key] = failure.reason
                self.turned_down += 1
                if failure.kind == "fatal":
                    self._stop(failure.reason)
                elif self.turned_down >= HOPELESS:
                    self._stop(f"{self.turned_down} questions in a row got no answer; last: {failure.reason}")
            else:
                self.turned_down = 0
                self.answers[key] = answer

    async def _answer(self, question: Question) -> str:
        """Try a question until it is answered, turned down or out of time."""
        if not isinstance(question, list):
            raise TypeError("an endpoint takes conversations")
        started = self.now()
        tries = garbled = 0
        while True:
            while wait := self.gate.enter(self.now()):
                await self._sleep(wait)
            if self.stopping.is_set():
                raise _Stopped
            sent = self.now()
            tries += 1
            try:
                async with asyncio.timeout(min(self.limits.timeout_s, self.limits.deadline_s)):
                    answer = await self.endpoint.send(question)
            except TimeoutError:
                failure = Failure("passing", f"no reply within {self.limits.timeout_s:g} s")
            except Failure as raised:
                failure = raised
            else:
                self.last_answer = self.now()
                self.gate.answered()
                return answer
            garbled += failure.kind == "garbled"
            if failure.kind in ("refused", "fatal") or garbled >= GARBLED_TRIES:
                raise failure
            if failure.kind == "busy":
                self._close(sent, failure, started)
                continue
            wait = failure.wait or delay(tries, self.limits.first_delay_s)
            if self.now() + wait - started > self.limits.deadline_s:
                # Where others were answered meanwhile, it is this question that fails; else it is the endpoint.
                kind = failure.kind if self.last_answer > started else "fatal"
                raise Failure(kind, f"no answer within {self.limits.deadline_s:g} s; last: {failure.reason}")
            await self._sleep(wait)

    def _close(self, sent: float, failure: Failure, started: float) -> None:
        """Shut the gate for all. Being told to wait costs a question no time while others are answered."""
        wait = self.gate.close(sent, self.now(), failure.wait)
        if self.now() + wait - max(started, self.last_answer) > self.limits.deadline_s:
            said = f"asks to wait {wait:.0f} s more, past the {self.limits.deadline_s:g} s of deadline_s"
            raise Failure("fatal", f"{said}; {failure.reason}")
        if wait >= LONG_WAIT_S and self.now() + wait > self.told_until + 1:  # once for all tasks
            self.told_until = self.now() + wait
            logger.warning("%s is busy; waiting %.0f s", self.source.label, wait)

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
