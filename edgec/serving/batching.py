"""The queue of one model: bounded, worked off by one thread, several requests a run where rows allow it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import threading
import time
from typing import Callable, Mapping, Sequence

import numpy as np

from edgec.serving.model import Arrays, Model
from edgec.serving.protocol import RefusalError
from edgec.serving.rows import rows_of, taken_apart

Outputs = Mapping[str, np.ndarray]

_SMOOTHING = 0.1
"""Weight of the newest run in the mean time of one."""

_LONGEST_JOIN = 5.0
"""Seconds that a run gets to end when the queue is closed; one that hangs ends with the process."""


@dataclasses.dataclass(eq=False)
class _Waiting:
    feeds: Arrays
    rows: int
    arrived: float
    deadline: float
    future: asyncio.Future[Outputs]

    def goes_with(self, other: _Waiting) -> bool:
        """Whether both fit under each other: the same sizes behind the first axis."""
        return all(array.shape[1:] == other.feeds[name].shape[1:] for name, array in self.feeds.items())


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, as its observer is told of it.

    Attributes:
        requests: requests in it.
        rows: their rows together.
        waited: seconds that the first of them waited.
        seconds: seconds that it took.
    """

    requests: int
    rows: int
    waited: float
    seconds: float


class Queue:
    """Requests to one model, in the order in which they came.

    All methods are called in the event loop's thread; the model runs in a thread of the queue's own.

    A run takes what waits, up to the model's rows. It is held back for more, `delay` seconds after the first
    of it came at most, while others are known to be on their way: a request that is alone never waits.

    Args:
        model: the model.
        most: requests that wait at most.
        delay: seconds that a request is held back at most for others.
        observe: told of every run, in the queue's thread.
    """

    def __init__(self, model: Model, most: int, delay: float, observe: Callable[[Run], None]) -> None:
        self.model = model
        self._most = most
        self._delay = delay
        self._observe = observe
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._on_their_way = 0
        self._mean_seconds = 0.0
        self._running_since: float | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=f"model {model.name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def running_for(self) -> float:
        """Seconds since the run that is under way began; 0 where none is."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_alive(self) -> bool:
        """Whether it works and takes requests."""
        return self._thread.is_alive() and not self._is_closed

    def check_room(self) -> None:
        """See that a request may wait.

        Raises:
            RefusalError: too many do, or the queue is closed; 503 with when to come again.
        """
        if self._is_closed:
            raise RefusalError(503, "the server is stopping", 1)
        if len(self._waiting) >= self._most:
            rows = 1 if self.model.rows is None else self.model.rows.most
            seconds = len(self._waiting) / rows * self._mean_seconds
            raise RefusalError(
                503, f"{len(self._waiting)} requests wait for {self.model.name}", max(1, round(seconds))
            )

    def expect(self, count: int) -> None:
        """Say that so many more requests (fewer where negative) are on their way here."""
        self._on_their_way += count
        if self._on_their_way == 0 and self._delay:
            with self._changed:
                self._changed.notify()

    async def run(self, feeds: Arrays, seconds: float) -> Outputs:
        """Compute a request.

        Args:
            feeds: as the model's `run` takes them.
            seconds: how long it may take, waiting included.

        Raises:
            RefusalError: there is no room, 503; it took too long, 504; the model failed, 500 or 400.
        """
        self.check_room()
        now = time.monotonic()
        rows = 1 if self.model.rows is None else rows_of(feeds)
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            self._waiting.append(_Waiting(feeds, rows, now, now + seconds, future))
            self._changed.notify()
        try:
            return await asyncio.wait_for(future, seconds)
        except asyncio.TimeoutError:
            raise RefusalError(504, f"{self.model.name} did not answer within {seconds:g} s") from None

    def close(self) -> None:
        """Take no more, finish what waits, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_LONGEST_JOIN)

    def _work(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                return
            now = time.monotonic()
            batch = [one for one in batch if one.deadline > now and not one.future.done()]
            if batch:
                self._run_together(batch)

    def _take(self) -> list[_Waiting]:
        """What goes into the next run; nothing once the queue is closed and empty."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return []
                self._changed.wait()
            if self.model.rows is None:
                return [self._waiting.popleft()]
            until = self._waiting[0].arrived + self._delay
            while self._on_their_way > 0 and not self._is_closed and not self._is_full(self.model.rows.most):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = [self._waiting.popleft()]
            rows = batch[0].rows
            while self._waiting and self._waiting[0].goes_with(batch[0]):
                rows += self._waiting[0].rows
                if rows > self.model.rows.most:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _is_full(self, most: int) -> bool:
        rows = 0
        for one in self._waiting:
            rows += one.rows
            if rows >= most:
                return True
        return False

    def _run_together(self, batch: Sequence[_Waiting]) -> None:
        started = self._running_since = time.monotonic()
        results: list[Outputs | BaseException]
        try:
            results = list(self._computed(batch))
        except Exception as error:
            results = [error]
        finally:
            self._running_since = None
        if len(batch) > 1 and isinstance(results[0], BaseException):
            # One of them broke the run, and the others have no part in it.
            for one in batch:
                self._run_together([one])
            return
        seconds = time.monotonic() - started
        self._mean_seconds += (seconds - self._mean_seconds) * (_SMOOTHING if self._mean_seconds else 1)
        rows = sum(one.rows for one in batch)
        self._observe(Run(len(batch), rows, started - batch[0].arrived, seconds))
        batch[0].future.get_loop().call_soon_threadsafe(_settle, batch, results)

    def _computed(self, batch: Sequence[_Waiting]) -> Sequence[Outputs]:
        rows = self.model.rows
        if rows is None:
            return [self.model.run(batch[0].feeds)]
        outputs = self.model.run(rows.together([one.feeds for one in batch]))
        return taken_apart(outputs, [one.rows for one in batch])


def _settle(batch: Sequence[_Waiting], results: Sequence[Outputs | BaseException]) -> None:
    for one, result in zip(batch, results):
        if one.future.done():  # it took too long, or its client left
            continue
        if isinstance(result, BaseException):
            one.future.set_exception(result)
        else:
            one.future.set_result(result)
