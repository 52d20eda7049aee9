"""Decoding by replaying recorded passes: the tier ``graph``.

On a GPU a decode step is some ten kernels per layer, each shorter than the time the host takes to launch it.
A CUDA graph launches a whole pass at once. `GraphDecoder` keeps one recording per bucket
(`bench.runtime.tiers.graph.buckets`) and answers `run_layers` and `step` from it: copy the inputs, replay,
copy the outputs. Methods never notice.

What is recorded: passes of up to `MOST_ROWS` rows through a range of layers, with the sub-layers that they
skip and the low-rank changes that they make. The ranges used most are recorded whole
(`bench.runtime.tiers.graph.spans`). Passes through others, such as those of an exit layer that moves or of a
search among skipped sub-layers, are replayed one sub-layer after another, from recordings of the single
sub-layers. Prefills, longer passes and passes with any other `Delta` run unrecorded; `Tally` counts them.

When it is recorded: at first use. `prepare` then chooses the ranges and records everything that similar
passes of a longer run will need, so that a measured turn records little or nothing (the run's record says how
much).

Shapes: R rows of a pass, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from bench.runtime.decoder import NO_SKIP, Decoder, Skip, Taps, Tier
from bench.runtime.delta import Delta, LowRankDelta
from bench.runtime.draft_step import DraftStepper, Head
from bench.runtime.layers import Layer, Weights
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.graph.buckets import Bucket, Inputs, Span, sublayer_bucket
from bench.runtime.tiers.graph.length_check import checked_attention
from bench.runtime.tiers.graph.lengths import ChainAttention, LengthDecoder
from bench.runtime.tiers.graph.recorder import Preparable, Recorder, Recording, Tally, Work
from bench.runtime.tiers.graph.sizes import MOST_ROWS, column_size, column_sizes, row_size, row_sizes
from bench.runtime.tiers.graph.slot_cache import SlotCache
from bench.runtime.tiers.graph.spans import Spans
from bench.runtime.tiers.graph.stepper import RecordedStepper

MICRO_CAPACITY = 16
"""A cache of at most so many slots holds no prompt: its first passes are short, frequent, and recorded."""


class GraphDecoder(LengthDecoder):
    """A `Decoder` that replays recorded passes.

    Args:
        recorder: Makes the recordings.
        tally: Counts passes and recordings; a companion shares it with the decoder that made it.

    The other arguments: see `Decoder`; the cache must be a `SlotCache`.

    Attributes:
        slots: The cache.
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
        self.slots = cache
        self._recorder = recorder
        self._recordings: dict[Bucket, Recording] = {}
        self._inputs: dict[int, Inputs] = {}  # by number of rows
        self._spans = Spans()
        self._companions: list[Preparable] = []

    def companion(
        self, layers: Sequence[Layer], final_norm: Tensor, capacity: int | None = None
    ) -> GraphDecoder:
        """See `Decoder.companion`; preparing this decoder prepares the companion too."""
        cache = SlotCache.like(self.slots, len(layers), self.capacity if capacity is None else capacity)
        weights = replace(self.weights, layers=layers, final_norm=final_norm)
        companion = GraphDecoder(weights, cache, self.placement, self._recorder, self.tally)
        companion.attention = self.attention  # its layers have the same heads
        self._companions.append(companion)
        return companion

    def stepper(self, exit_layer: int, head: Head, drafter: Decoder | None = None) -> DraftStepper:
        """See `Decoder.stepper`; a step is one recording.

        Raises:
            ValueError: If the drafter is on another tier.
        """
        if drafter is not None and not isinstance(drafter, GraphDecoder):
            raise ValueError(f"the drafter must be on the tier graph like the target, got {drafter.tier}")
        return RecordedStepper(self, exit_layer, head, drafter)

    def adopt(self, other: Decoder) -> None:
        """See `Decoder.adopt`."""
        if isinstance(other, GraphDecoder):
            other.tally = self.tally
            other.attention = checked_attention(other) if self.attention == "lengths" else "masked"
            self._companions.append(other)

    def attend_by(self, attention: ChainAttention) -> None:
        """Let chains that are recorded from now on attend so; drops earlier recordings."""
        self.attention = attention
        self._recordings.clear()

    def prepare(self, longest: int) -> None:
        """Empty the cache, and record what passes like those so far need up to `longest` tokens.

        That is every bucket so far at every number of columns, and with fewer rows too; of a sub-layer also
        the sub-layers of all other layers.
        """
        super().prepare(longest)  # recording overwrites slots
        self._spans.settle()
        for bucket in [
            key for key in self._recordings if key.part == "layers" and key.span not in self._spans
        ]:
            del self._recordings[bucket]
        columns = column_sizes(longest, self.capacity)
        for recorded in [*self._recordings, *self._spans.buckets()]:
            for bucket in self._similar(recorded):
                for count in columns if bucket.columns else [0]:
                    self._recording(bucket._replace(columns=count))
        self.slots.mark_written()
        for companion in self._companions:
            companion.prepare(longest)

    def prepare_along(self, other: Preparable) -> None:
        """Prepare `other` whenever this decoder is prepared."""
        self._companions.append(other)

    def step(self, ids: Tensor, base: int) -> Tensor:
        """See `Decoder.step`; embedding and head are part of the recording."""
        count = ids.numel()
        if count > MOST_ROWS or (base == 0 and count > 1):
            return super().step(ids, base)
        self.placement.check(base + count, base)
        self.slots.advance(range(self.depth), base, count)
        self.tally.replayed += 1
        columns = column_size(base + count, self.capacity)
        bucket = Bucket("step", Span(0, self.depth), row_size(count), columns, is_chain=True)
        inputs = self._inputs_of(bucket.rows)
        inputs.ids[:count].copy_(ids)
        inputs.set_chain(base, count)
        (logits,) = self._replay(bucket)
        return logits[:count].clone()

    def _pass(
        self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, delta: Delta | None, taps: Taps | None
    ) -> Tensor:
        filled: Taps = {} if taps is None else taps
        bucket = self._bucket(hidden.shape[0], rows, layers, skip, delta, filled)
        if bucket is None:
            return super()._pass(hidden, rows, layers, skip, delta, taps)
        writing = (layer for layer in layers if layer not in skip.attention)
        self.slots.advance(writing, rows.base, rows.writes)
        if layers.start in filled:
            filled[layers.start] = hidden
        self.tally.replayed += 1
        if bucket.span in self._spans:
            return self._run_whole(hidden, rows, bucket, filled)
        return self._run_sublayers(hidden, rows, layers, skip, filled)

    # -- choosing ------------------------------------------------------------------------------------------

    def _bucket(
        self, count: int, rows: Rows, layers: range, skip: Skip, delta: Delta | None, taps: Taps
    ) -> Bucket | None:
        """The bucket of a pass; None if it runs unrecorded, and then the tally counts why."""
        if not layers:
            return None
        if rows.is_causal and self.capacity > MICRO_CAPACITY:
            self.tally.prefill += 1
        elif count > MOST_ROWS:
            self.tally.long += 1
        elif delta is None or isinstance(delta, LowRankDelta):
            span = Span(layers.start, layers.stop, skip, delta)
            inner = tuple(sorted(layer for layer in taps if layers.start < layer <= layers.stop))
            columns = column_size(rows.base + rows.writes, self.capacity)
            is_chain = rows.is_chain and rows.writes == count
            bucket = Bucket("layers", span, row_size(count), columns, is_chain, inner)
            self._spans.use(bucket)
            if delta is None or span in self._spans:
                return bucket
            self.tally.delta += 1
        else:
            self.tally.delta += 1
        return None

    def _similar(self, bucket: Bucket) -> Iterator[Bucket]:
        """Buckets that later passes may need: of fewer rows; the sub-layers of every other layer."""
        if bucket.part in ("step", "layers"):
            yield bucket
            yield from (bucket._replace(rows=size) for size in row_sizes(bucket.rows) if size < bucket.rows)
            return
        columns = column_size(1, self.capacity)
        for index, layer in enumerate(self.layers):
            yield sublayer_bucket("attention", index, bucket.rows, columns)
            if layer.mlp is not None:
                yield sublayer_bucket("mlp", index, bucket.rows, 0)

    # -- replaying -----------------------------------------------------------------------------------------

    def _inputs_of(self, rows: int) -> Inputs:
        if rows not in self._inputs:
            self._inputs[rows] = Inputs(self, rows, self.slots.trash)
        return self._inputs[rows]

    def _run_whole(self, hidden: Tensor, rows: Rows, bucket: Bucket, taps: Taps) -> Tensor:
        """Replay one recording of all these layers."""
        count, inputs = hidden.shape[0], self._inputs_of(bucket.rows)
        inputs.hidden[:count].copy_(hidden)
        if bucket.is_chain:
            inputs.set_chain(rows.base, count)
        else:
            inputs.set_rows(rows, count, bucket.columns)
        out, *entering = (output[:count].clone() for output in self._replay(bucket))
        taps.update(zip(bucket.taps, entering, strict=True))
        return out

    def _run_sublayers(self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, taps: Taps) -> Tensor:
        """Replay one sub-layer after another; each leaves its rows in the inputs for the next to read."""
        count, columns = hidden.shape[0], column_size(rows.base + rows.writes, self.capacity)
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
            if bucket.part == "step":
                inputs.logits()  # allocated before, not inside the recording
            before = inputs.hidden.clone()
            recording = self._recordings[bucket] = self.record(partial(self._work, bucket, inputs))
            inputs.hidden.copy_(before)
        return recording

    def record(self, work: Work) -> Recording:
        """Record any work on this decoder's device; counted like its own recordings."""
        self.tally.recorded += 1
        return self._recorder.record(work)

    def recorded_chain(self, hidden: Tensor, layers: range, positions: Tensor, columns: int) -> Tensor:
        """Run consecutive tokens [R, d] inside work that is recorded; the host advances the cache itself.

        Args:
            hidden: Rows entering the first layer, shape [R, d].
            layers: Through which layers.
            positions: Of the tokens, known on the device only, shape [R].
            columns: Cache slots that attention reads.
        """
        with self.slots.window(positions, columns):
            rows = self.chain_rows(positions, columns)
            return super()._pass(hidden, rows, layers, NO_SKIP, None, None)

    def _work(self, bucket: Bucket, inputs: Inputs) -> tuple[Tensor, ...]:
        """The work to record: the static pass on fixed inputs, to which a sub-layer writes its rows back."""
        span = bucket.span
        layer = self.layers[span.start]
        if bucket.part == "mlp" and layer.mlp is not None:
            inputs.hidden.copy_(self._feed_forward(span.start, layer.mlp, inputs.hidden, None))
            return ()
        rows, slots = inputs.placed(self, bucket.columns, bucket.is_chain)
        layers = range(span.start, span.stop)
        with self.slots.window(slots, bucket.columns):
            if bucket.part == "step":
                out = super()._pass(self.embed(inputs.ids), rows, layers, NO_SKIP, None, None)
                return (inputs.logits().copy_(self.head(out)),)
            if bucket.part == "attention":
                inputs.hidden.copy_(self._attend(span.start, layer.attention, inputs.hidden, rows, None))
                return ()
            taps: Taps = dict.fromkeys(bucket.taps, inputs.hidden)
            out = super()._pass(inputs.hidden, rows, layers, span.skip, span.delta, taps)
            return out, *taps.values()
