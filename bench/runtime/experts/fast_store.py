"""The fast store: room for N experts, and the thread that loads others into it while the model computes.

One link is modelled, so one expert is read at a time. An expert that a row needs now (demand) is read before
any that was only predicted, and may take the place of any expert that no row is using. A prediction never
evicts an expert that is in use or on its way, and is dropped where there is no room.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

from bench.errors import UserError
from bench.runtime.experts.slow_memory import ExpertMemory, Key
from bench.runtime.moe import Expert

PATIENCE_S = 0.2
"""How often a waiting thread looks whether the loading one still lives."""


class _State(Enum):
    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"


@dataclass(slots=True, eq=False)
class _Slot:
    """Room for one expert, and what is known of the one in it or on its way."""

    expert: Expert
    state: _State = _State.QUEUED
    is_pinned: bool = False
    """Needed by the layer that is being computed."""
    is_predicted: bool = False
    """Loaded because of a prediction, and not used since."""


@dataclass(slots=True)
class StoreCounts:
    """What the store did.

    Args:
        needed: Experts that rows needed, by pass and layer.
        hits: Of these, in the store when they were needed.
        late: Of these, on their way because of a prediction.
        loads: Experts read from slow memory.
        wasted: Predicted experts that were evicted unused.
        dropped: Predictions for which there was no room.
        stall_s: Time that the model waited for experts.
    """

    needed: int = 0
    hits: int = 0
    late: int = 0
    loads: int = 0
    wasted: int = 0
    dropped: int = 0
    stall_s: float = 0.0


@dataclass(slots=True)
class _Queues:
    """Experts to read, those that rows wait for first."""

    demanded: OrderedDict[Key, None] = field(default_factory=OrderedDict)
    predicted: OrderedDict[Key, None] = field(default_factory=OrderedDict)

    def next(self) -> Key | None:
        for queue in (self.demanded, self.predicted):
            if queue:
                return queue.popitem(last=False)[0]
        return None

    def discard(self, key: Key) -> None:
        self.demanded.pop(key, None)
        self.predicted.pop(key, None)


class FastStore:
    """At most `capacity` experts in memory, the least recently used evicted first.

    Use it as a context: the loading thread lives inside the ``with`` block only.

    Args:
        memory: Where experts are read from.
        capacity: Most experts, of all layers together.
    """

    def __init__(self, memory: ExpertMemory, capacity: int) -> None:
        if capacity < 1:
            raise UserError(f"a store of {capacity} experts holds nothing", "set method.slots to at least 1")
        self.memory, self.capacity = memory, capacity
        self.counts = StoreCounts()
        self._free = [memory.blank() for _ in range(capacity)]
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()  # least recently used first
        self._queues = _Queues()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_ending = False
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._is_ending, self._failure = False, None
        self._thread = threading.Thread(target=self._load_all, name="expert loader", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._is_ending = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        for key in [key for key, slot in self._slots.items() if slot.state is not _State.READY]:
            self._give_back(key)
        self._release(tuple(self._slots))

    def demand(self, keys: Sequence[Key]) -> None:
        """Begin to load what rows need now; until it is taken, nothing of it is evicted."""
        with self._change:
            self.counts.needed += len(keys)
            for key in keys:
                slot = self._slots.get(key)
                if slot is not None:
                    slot.is_pinned = True
                    self.counts.hits += slot.state is _State.READY
                    self.counts.late += slot.state is not _State.READY
            self._demand(keys)

    def take(self, keys: Sequence[Key]) -> Iterator[tuple[Key, Expert]]:
        """Give every demanded expert once, those in the store first; it may be used until the next is taken.

        Raises:
            RuntimeError: If the loading thread has ended.
            UserError: If an expert could not be read.
        """
        waiting = list(keys)
        try:
            while waiting:
                key = self._first_ready(waiting)
                waiting.remove(key)
                yield key, self._slots[key].expert
                self._release((key,))
        finally:
            self._release(waiting)

    def predict(self, keys: Sequence[Key]) -> None:
        """Begin to load experts that may be needed soon, as far as there is room for them."""
        with self._change:
            for key in keys:
                if key in self._slots:
                    self._slots.move_to_end(key)
                elif self._reserve(key, spare=frozenset(keys)):
                    self._slots[key].is_predicted = True
                    self._queues.predicted[key] = None
                else:
                    self.counts.dropped += 1
            self._change.notify_all()

    def cancel(self, layer: int, but: Sequence[int]) -> None:
        """Forget predictions for a layer whose loading has not begun, but not those of the experts `but`."""
        with self._change:
            stale = [key for key in self._queues.predicted if key[0] == layer and key[1] not in but]
            for key in stale:
                self._give_back(key)

    @property
    def resident(self) -> tuple[Key, ...]:
        """Experts in the store, the least recently used first."""
        return tuple(key for key, slot in self._slots.items() if slot.state is _State.READY)

    def _release(self, keys: Sequence[Key]) -> None:
        """Allow that these are evicted."""
        with self._change:
            for key in keys:
                if key in self._slots:
                    self._slots[key].is_pinned = False

    def _first_ready(self, waiting: Sequence[Key]) -> Key:
        """Wait until one of these is in the store, and pin it; until then, demand what there is room for."""
        begun = time.perf_counter()
        with self._change:
            while True:
                self._demand(waiting)
                for key in waiting:
                    slot = self._slots.get(key)
                    if slot is not None and slot.state is _State.READY:
                        slot.is_pinned, slot.is_predicted = True, False
                        self._slots.move_to_end(key)
                        self.counts.stall_s += time.perf_counter() - begun
                        return key
                self._require_loader()
                self._change.wait(PATIENCE_S)

    def _demand(self, keys: Sequence[Key]) -> None:
        """Queue what is neither in the store nor demanded yet, as far as there is room."""
        needed = frozenset(keys)
        for key in keys:
            slot = self._slots.get(key)
            if slot is None and not self._reserve(key, spare=needed):
                continue  # there will be room once one of the others was used
            self._slots[key].is_pinned = True
            if self._slots[key].state is _State.QUEUED and key not in self._queues.demanded:
                self._queues.discard(key)
                self._queues.demanded[key] = None
                self._change.notify_all()

    def _reserve(self, key: Key, spare: frozenset[Key]) -> bool:
        """Take a free place for an expert, or that of the least recently used one that may go."""
        if not self._free:
            old = next((old for old, slot in self._slots.items() if self._may_go(old, slot, spare)), None)
            if old is None:
                return False
            self._give_back(old)
        self._slots[key] = _Slot(self._free.pop())
        return True

    def _may_go(self, key: Key, slot: _Slot, spare: frozenset[Key]) -> bool:
        return not (slot.is_pinned or key in spare or slot.state is _State.LOADING)

    def _give_back(self, key: Key) -> None:
        """Free the place of an expert."""
        slot = self._slots.pop(key)
        self._queues.discard(key)
        self._free.append(slot.expert)
        self.counts.wasted += slot.is_predicted and slot.state is _State.READY

    def _require_loader(self) -> None:
        """Raise if no expert will ever come."""
        if isinstance(self._failure, UserError):
            failure, self._failure = self._failure, None
            raise failure
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the thread that loads experts has ended, so the model cannot go on") from (
                self._failure
            )

    def _load_all(self) -> None:
        """The loading thread: read one expert after the other until the store ends."""
        while (order := self._next()) is not None:
            key, slot = order
            try:
                self.memory.read(key, slot.expert)
            except (OSError, UserError) as error:  # after any other, the waiting thread finds this one dead
                with self._change:
                    self._failure = error
                    self._give_back(key)
                    self._change.notify_all()
                if not isinstance(error, UserError):
                    return
            else:
                with self._change:
                    slot.state = _State.READY
                    self.counts.loads += 1
                    self._change.notify_all()

    def _next(self) -> tuple[Key, _Slot] | None:
        """The next expert to read; waits for one, and returns None at the end."""
        with self._change:
            while not self._is_ending:
                key = self._queues.next()
                if key is not None:
                    slot = self._slots[key]
                    slot.state = _State.LOADING
                    return key, slot
                self._change.wait()
            return None
