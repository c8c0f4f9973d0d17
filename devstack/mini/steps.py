# SPDX-License-Identifier: Apache-2.0
"""Run steps that depend on each other, in parallel, a line for each."""

from collections.abc import Callable
import dataclasses
import pathlib
import queue
import threading
import time
import traceback

from mini import errors

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Step:
    """One piece of work.

    ``run`` may return a remark for the progress line.
    """

    name: str
    run: Callable[[], str | None]
    after: tuple[str, ...] = ()


def check(steps: list[Step]) -> None:
    """Raise ValueError for a name used twice, unknown, or in a circle."""
    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise ValueError(f'two steps of one name in {names}')
    waiting = {step.name: set(step.after) for step in steps}
    done: set[str] = set()
    while waiting:
        able = {name for name, after in waiting.items() if after <= done}
        if not able:
            raise ValueError(f'these steps can never begin: {waiting}')
        done |= able
        waiting = {n: a for n, a in waiting.items() if n not in able}


class Clock:
    """Say lines with the seconds since the start and since the last."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._begin = self._last = time.monotonic()

    def tick(self, text: str, since: float | None = None) -> float:
        """Say that something ended; return the seconds since the start.

        :param since: when it began, by default at the last tick.
        """
        now = time.monotonic()
        took = now - (self._last if since is None else since)
        self._last = now
        elapsed = now - self._begin
        self._say(f'[{elapsed:6.1f} s] {text:<42} {took:5.1f} s')
        return elapsed


class Runner:
    """Run steps as soon as the ones before them are done."""

    def __init__(
        self, steps: list[Step], say: Say, log: pathlib.Path
    ) -> None:
        check(steps)
        self._waiting = list(steps)
        self._say = say
        self._log = log
        self._done: set[str] = set()
        self._events: queue.Queue[tuple[Step, Exception | None]]
        self._events = queue.Queue()
        self._running = 0
        self._begin = time.monotonic()

    def run(self) -> float:
        """Run all; return the seconds used.

        After a failure no new step begins, the running ones are awaited.

        :raises Exception: the first failure of a step.
        """
        failure: Exception | None = None
        self._launch()
        while self._running:
            step, error = self._events.get()
            self._running -= 1
            if error is None:
                self._done.add(step.name)
            elif failure is None:
                failure = error
            if failure is None:
                self._launch()
        if failure is not None:
            raise failure
        return time.monotonic() - self._begin

    def _launch(self) -> None:
        for step in list(self._waiting):
            if set(step.after) <= self._done:
                self._waiting.remove(step)
                self._running += 1
                threading.Thread(
                    target=self._work, args=(step,), daemon=True
                ).start()

    def _unexpected(self, step: Step, error: Exception) -> Exception:
        """Put the trace into the log; return what the operator is told."""
        with self._log.open('a') as stream:
            traceback.print_exception(error, file=stream)
        told = f'{step.name}: {type(error).__name__}: {error}'
        return errors.MinicloudError(told, self._log)

    def _work(self, step: Step) -> None:
        start = time.monotonic()
        error: Exception | None = None
        remark = None
        try:
            remark = step.run()
        except errors.MinicloudError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - told to the operator
            error = self._unexpected(step, caught)
        now = time.monotonic()
        note = 'FAILED' if error else (remark or '')
        self._say(
            f'[{now - self._begin:6.1f} s] {step.name:<34} '
            f'{now - start:5.1f} s  {note}'.rstrip()
        )
        self._events.put((step, error))
