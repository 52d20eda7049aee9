"""Decoding by replaying recorded passes: the tier ``graph``.

On a GPU a decode step is some ten kernels per layer, each shorter than the time the host takes to launch it.
A CUDA graph launches a whole pass at once. `GraphDecoder` keeps one recording per bucket
(`bench.runtime.tiers.graph.buckets`) and answers `run_layers` and `step` from it: copy the inputs, replay,
copy the outputs. Methods never notice.

What is recorded: passes of up to `MOST_ROWS` rows through a range of layers. A method whose ranges change (an
exit layer that moves) or that skips sub-layers would need too many recordings of this kind. Its passes are
replayed one sub-layer after another instead, from recordings of the single sub-layers. Prefills, longer
passes and passes with a `Delta` run unrecorded; `Tally` counts them.

When it is recorded: at first use. `prepare` then records everything that similar passes of a longer run will
need, so that a measured turn records little or nothing (the run's record says how much). Recordings are never
dropped.

Batches of several sequences are not supported. Most of what they need is known: t(M), the measured cost of a
pass of M rows, since B sequences that verify K + 1 rows each are a pass of B (K + 1) rows, as far as weights
are concerned. Attention would have to change: `Rows.base` becomes one base per sequence, the cache gets a
sequence axis before its slots, masks cover each row's own sequence only, and a bucket is named by B as well.
Rounds stay ragged: a sequence that accepts less commits less, which one length per sequence already
expresses.

Shapes: R rows of a pass, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from bench.runtime.decoder import NO_SKIP, Decoder, Layer, Skip, Taps, Tier, Weights
from bench.runtime.delta import Delta
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.graph.buckets import (
    MOST_ROWS,
    ROW_SIZES,
    Bucket,
    Inputs,
    column_size,
    column_sizes,
    row_size,
    sublayer_bucket,
)
from bench.runtime.tiers.graph.recorder import Recorder, Recording, Tally
from bench.runtime.tiers.graph.slot_cache import SlotCache

MOST_RANGES = 6
"""Ranges of layers that get recordings of their own; passes through others are replayed by sub-layer."""


class GraphDecoder(Decoder):
    """A `Decoder` that replays recorded passes.

    Args:
        recorder: Makes the recordings.
        tally: Counts passes and recordings; a companion shares it with the decoder that made it.

    The other arguments: see `Decoder`; the cache must be a `SlotCache`.
    """

    tier: Tier = "graph"

    def __init__(
        self,
        weights: Weights,
        cache: SlotCache,
        placement: Placement,
        recorder: Recorder,
        tally: Tally | None = None,
    ) -> None:
        super().__init__(weights, cache, placement)
        self.tally = Tally() if tally is None else tally
        self._slots = cache
        self._recorder = recorder
        self._recordings: dict[Bucket, Recording] = {}
        self._inputs: dict[int, Inputs] = {}  # by number of rows
        self._ranges: set[tuple[int, int]] = set()  # of layers, recorded whole
        self._companions: list[GraphDecoder] = []

    def companion(
        self, layers: Sequence[Layer], final_norm: Tensor, capacity: int | None = None
    ) -> GraphDecoder:
        """See `Decoder.companion`; preparing this decoder prepares the companion too."""
        cache = self._slots.sibling(len(layers), self.capacity if capacity is None else capacity)
        weights = replace(self.weights, layers=layers, final_norm=final_norm)
        companion = GraphDecoder(weights, cache, self.placement, self._recorder, self.tally)
        self._companions.append(companion)
        return companion

    def adopt(self, other: Decoder) -> None:
        """See `Decoder.adopt`."""
        if isinstance(other, GraphDecoder):
            other.tally = self.tally
            self._companions.append(other)

    def prepare(self, longest: int) -> None:
        """Empty the cache, and record what passes like those so far need up to `longest` tokens.

        That is every bucket so far at every number of columns; of a chain also with fewer rows; of a
        sub-layer also the sub-layers of all other layers.
        """
        super().prepare(longest)  # recording overwrites slots
        columns = column_sizes(longest, self.capacity)
        for recorded in list(self._recordings):
            for bucket in self._similar(recorded):
                for count in columns if bucket.columns else [0]:
                    self._recording(bucket._replace(columns=count))
        self._slots.mark_written()
        for companion in self._companions:
            companion.prepare(longest)

    def step(self, ids: Tensor, base: int) -> Tensor:
        """See `Decoder.step`; embedding and head are part of the recording."""
        count = ids.numel()
        if count > MOST_ROWS or (base == 0 and count > 1):
            return super().step(ids, base)
        self.placement.check(base + count, base)
        self._slots.advance(range(self.depth), base, count)
        self.tally.replayed += 1
        columns = column_size(base + count, self.capacity)
        bucket = Bucket("step", 0, self.depth, row_size(count), columns, is_chain=True)
        inputs = self._inputs_of(bucket.rows)
        inputs.ids[:count].copy_(ids)
        inputs.set_chain(base, count)
        (logits,) = self._replay(bucket)
        return logits[:count].clone()

    def _pass(
        self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, delta: Delta | None, taps: Taps | None
    ) -> Tensor:
        if not layers or not self._is_recorded(hidden.shape[0], rows, delta):
            return super()._pass(hidden, rows, layers, skip, delta, taps)
        writing = (layer for layer in layers if layer not in skip.attention)
        self._slots.advance(writing, rows.base, rows.writes)
        filled: Taps = {} if taps is None else taps
        if layers.start in filled:
            filled[layers.start] = hidden
        self.tally.replayed += 1
        if self._is_whole(layers, skip):
            return self._run_whole(hidden, rows, layers, filled)
        return self._run_sublayers(hidden, rows, layers, skip, filled)

    # -- choosing ------------------------------------------------------------------------------------------

    def _is_recorded(self, count: int, rows: Rows, delta: Delta | None) -> bool:
        """Whether a pass of this kind is recorded; if not, the tally counts why."""
        if delta is not None:
            self.tally.delta += 1
        elif rows.is_causal:
            self.tally.prefill += 1
        elif count > MOST_ROWS:
            self.tally.long += 1
        else:
            return True
        return False

    def _is_whole(self, layers: range, skip: Skip) -> bool:
        """Whether these layers share one recording; the first `MOST_RANGES` ranges without skips do."""
        if skip.attention or skip.mlp:
            return False
        if len(self._ranges) < MOST_RANGES:
            self._ranges.add((layers.start, layers.stop))
        return (layers.start, layers.stop) in self._ranges

    def _similar(self, bucket: Bucket) -> Iterator[Bucket]:
        """Buckets that later passes may need: a chain of fewer rows; the sub-layers of every other layer."""
        if bucket.part in ("step", "layers"):
            yield bucket
            if bucket.is_chain:
                yield from (bucket._replace(rows=size) for size in ROW_SIZES if size < bucket.rows)
            return
        columns = column_size(1, self.capacity)
        for index, layer in enumerate(self.layers):
            yield sublayer_bucket("attention", index, bucket.rows, columns)
            if layer.mlp is not None:
                yield sublayer_bucket("mlp", index, bucket.rows, 0)

    # -- replaying -----------------------------------------------------------------------------------------

    def _inputs_of(self, rows: int) -> Inputs:
        if rows not in self._inputs:
            self._inputs[rows] = Inputs(self, rows, self._slots.trash)
        return self._inputs[rows]

    def _run_whole(self, hidden: Tensor, rows: Rows, layers: range, taps: Taps) -> Tensor:
        """Replay one recording of all these layers."""
        count, columns = hidden.shape[0], self._columns(rows)
        is_chain = rows.is_chain and rows.writes == count
        tapped = tuple(sorted(layer for layer in taps if layers.start < layer <= layers.stop))
        bucket = Bucket("layers", layers.start, layers.stop, row_size(count), columns, is_chain, tapped)
        inputs = self._inputs_of(bucket.rows)
        inputs.hidden[:count].copy_(hidden)
        if is_chain:
            inputs.set_chain(rows.base, count)
        else:
            inputs.set_rows(rows, count, columns)
        out, *entering = (output[:count].clone() for output in self._replay(bucket))
        taps.update(zip(tapped, entering, strict=True))
        return out

    def _run_sublayers(self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, taps: Taps) -> Tensor:
        """Replay one sub-layer after another; each leaves its rows in the inputs for the next to read."""
        count, columns = hidden.shape[0], self._columns(rows)
        inputs = self._inputs_of(row_size(count))
        running = inputs.hidden[:count]
        running.copy_(hidden)
        inputs.set_rows(rows, count, columns)
        for index in layers:
            if index in taps and index > layers.start:
                taps[index] = running.clone()
            if index not in skip.attention:
                self._replay(sublayer_bucket("attention", index, row_size(count), columns))
            if self.layers[index].mlp is not None and index not in skip.mlp:
                self._replay(sublayer_bucket("mlp", index, row_size(count), 0))
        out = running.clone()
        if layers.stop in taps:
            taps[layers.stop] = out
        return out

    def _columns(self, rows: Rows) -> int:
        return column_size(rows.base + rows.writes, self.capacity)

    def _replay(self, bucket: Bucket) -> tuple[Tensor, ...]:
        recording = self._recordings.get(bucket) or self._recording(bucket)
        recording.replay()
        return recording.outputs

    # -- recording -----------------------------------------------------------------------------------------

    def _recording(self, bucket: Bucket) -> Recording:
        """The bucket's recording, made if there is none; making it leaves the inputs as they were."""
        recording = self._recordings.get(bucket)
        if recording is None:
            inputs = self._inputs_of(bucket.rows)
            before = inputs.hidden.clone()
            recording = self._recorder.record(partial(self._work, bucket, inputs))
            inputs.hidden.copy_(before)
            self._recordings[bucket] = recording
            self.tally.recorded += 1
        return recording

    def _work(self, bucket: Bucket, inputs: Inputs) -> tuple[Tensor, ...]:
        """The work to record: the static pass on fixed inputs, to which a sub-layer writes its rows back."""
        layer = self.layers[bucket.start]
        if bucket.part == "mlp" and layer.mlp is not None:
            inputs.hidden.copy_(self._feed_forward(bucket.start, layer.mlp, inputs.hidden, None))
            return ()
        rows, slots = inputs.placed(bucket.columns, bucket.is_chain)
        layers = range(bucket.start, bucket.stop)
        with self._slots.window(slots, bucket.columns):
            if bucket.part == "step":
                return (self.head(super()._pass(self.embed(inputs.ids), rows, layers, NO_SKIP, None, None)),)
            if bucket.part == "attention":
                inputs.hidden.copy_(self._attend(bucket.start, layer.attention, inputs.hidden, rows, None))
                return ()
            taps: Taps = dict.fromkeys(bucket.taps, inputs.hidden)
            out = super()._pass(inputs.hidden, rows, layers, NO_SKIP, None, taps)
            return out, *taps.values()
