"""Decoding by replaying recorded passes: the tier ``graph``.

On a GPU a decode step is some ten kernels per layer, each shorter than the host takes to launch it. A CUDA
graph launches a whole pass at once. `GraphDecoder` keeps a recording per bucket
(`bench.runtime.tiers.buckets`) and answers `run_layers` and `step` from it: copy the inputs, replay, copy the
output. The methods do not notice.

Recorded are passes of up to `MOST_ROWS` rows through a range of layers. Where the ranges are many (an exit
that moves) or sub-layers are left out (a skip set that changes), single sub-layers are recorded and replayed
in turn, so that no schedule ever needs a recording of its own. Prefills, longer passes and passes with a
`Delta` run unrecorded; `Tally` counts them.

Recordings are made when they are first needed, and `prepare` makes those that a run will need, so that a
measured turn meets none or next to none (the run's record counts them); they are never evicted.

Batches larger than one are out of scope. t(M), the measured cost of a pass of M rows, is most of what they
need: B sequences that verify K + 1 rows each are a pass of B (K + 1) rows, as far as weights go. What would
enter is attention. `Rows.base` becomes one base per sequence, the cache gets a sequence axis in front of its
slots, masks cover each row's own sequence only, a bucket is named by B as well, and rounds stay ragged: a
sequence that accepts less commits less, which lengths per sequence already express.

Shapes: R rows of a pass, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from bench.runtime.decoder import NO_SKIP, Decoder, Layer, Skip, Tier
from bench.runtime.delta import Delta
from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear
from bench.runtime.rows import Placement, Rows
from bench.runtime.tiers.buckets import (
    MOST_ROWS,
    ROW_SIZES,
    Bucket,
    Inputs,
    Part,
    column_size,
    column_sizes,
    row_size,
)
from bench.runtime.tiers.recorder import Recorder, Recording, Tally
from bench.runtime.tiers.slot_cache import SlotCache

MOST_RANGES = 6
"""Ranges of layers that get recordings of their own; further ones are replayed by sub-layer."""


@dataclass(slots=True)
class _Shelf:
    """Recordings and inputs of one decoder."""

    recordings: dict[Bucket, Recording] = field(default_factory=dict)
    inputs: dict[int, Inputs] = field(default_factory=dict)
    ranges: set[tuple[int, int]] = field(default_factory=set)


class GraphDecoder(Decoder):
    """A `Decoder` that replays.

    Args:
        recorder: Makes the recordings.
        tally: Where passes are counted; shared with the decoder that this one accompanies.

    The others: see `Decoder`; the cache must be a `SlotCache`.
    """

    tier: Tier = "graph"

    def __init__(
        self,
        config: DecoderConfig,
        embedding: Tensor,
        layers: Sequence[Layer],
        final_norm: Tensor,
        lm_head: Linear,
        cache: SlotCache,
        placement: Placement,
        recorder: Recorder,
        tally: Tally | None = None,
    ) -> None:
        super().__init__(config, embedding, layers, final_norm, lm_head, cache, placement)
        self._slots = cache
        self._recorder = recorder
        self._shelf = _Shelf()
        self._companions: list[GraphDecoder] = []
        self.tally = Tally() if tally is None else tally

    def companion(
        self, layers: Sequence[Layer], final_norm: Tensor, capacity: int | None = None
    ) -> GraphDecoder:
        """See `Decoder.companion`; `prepare` prepares it too."""
        made = GraphDecoder(
            self.config,
            self.embedding,
            layers,
            final_norm,
            self.lm_head,
            self._slots.sibling(len(layers), self.capacity if capacity is None else capacity),
            self.placement,
            self._recorder,
            self.tally,
        )
        self._companions.append(made)
        return made

    def step(self, ids: Tensor, base: int) -> Tensor:
        """See `Decoder.step`; embedding and head are part of the recording."""
        count = ids.numel()
        if count > MOST_ROWS or (base == 0 and count > 1):
            return super().step(ids, base)
        self.placement.check(base + count)
        self._slots.advance(range(self.depth), base, count)
        self.tally.replayed += 1
        columns = column_size(base + count, self.capacity)
        bucket = Bucket("step", 0, self.depth, row_size(count), columns, is_chain=True)
        inputs = self._inputs(bucket.rows)
        inputs.ids[:count].copy_(ids)
        inputs.place_chain(base, count)
        (logits,) = self._replay(bucket)
        return logits[:count].clone()

    def run_layers(
        self,
        hidden: Tensor,
        rows: Rows,
        start: int = 0,
        stop: int | None = None,
        *,
        skip: Skip = NO_SKIP,
        delta: Delta | None = None,
        taps: MutableMapping[int, Tensor] | None = None,
    ) -> Tensor:
        """See `Decoder.run_layers`."""
        stop = self.depth if stop is None else stop
        if start >= stop or not self._is_recorded(hidden.shape[0], rows, delta):
            return super().run_layers(hidden, rows, start, stop, skip=skip, delta=delta, taps=taps)
        writing = (layer for layer in range(start, stop) if layer not in skip.attention)
        self._slots.advance(writing, rows.base, rows.writes)
        tapped: MutableMapping[int, Tensor] = {} if taps is None else taps
        if start in tapped:
            tapped[start] = hidden
        self.tally.replayed += 1
        if self._is_whole(start, stop, skip):
            return self._run_whole(hidden, rows, start, stop, tapped)
        return self._run_pieces(hidden, rows, range(start, stop), skip, tapped)

    def adopt(self, other: Decoder) -> None:
        """See `Decoder.adopt`."""
        if isinstance(other, GraphDecoder):
            other.tally = self.tally
            self._companions.append(other)

    def prepare(self, longest: int) -> None:
        """See `Decoder.prepare`: each recording so far, for all lengths; a chain's, for fewer rows too."""
        super().prepare(longest)  # recording writes to it
        columns = column_sizes(longest, self.capacity)
        for bucket in list(self._shelf.recordings):
            for wanted in self._alike(bucket):
                for count in columns if wanted.columns else [0]:
                    self._recording(wanted._replace(columns=count))
        for one in self._companions:
            one.prepare(longest)

    # -- choosing ------------------------------------------------------------------------------------------

    def _is_recorded(self, count: int, rows: Rows, delta: Delta | None) -> bool:
        """Whether a pass is one for a recording; otherwise it is tallied."""
        if delta is not None:
            self.tally.delta += 1
        elif rows.is_causal:
            self.tally.prefill += 1
        elif count > MOST_ROWS:
            self.tally.long += 1
        else:
            return True
        return False

    def _is_whole(self, start: int, stop: int, skip: Skip) -> bool:
        """Whether this range is recorded as one; the first few that come are."""
        if skip.attention or skip.mlp:
            return False
        ranges = self._shelf.ranges
        if len(ranges) < MOST_RANGES:
            ranges.add((start, stop))
        return (start, stop) in ranges

    def _alike(self, bucket: Bucket) -> Iterator[Bucket]:
        """What may be needed next: fewer rows of a chain; of a sub-layer, the same of any other layer."""
        if bucket.part in ("step", "layers"):
            yield bucket
            if bucket.is_chain:
                yield from (bucket._replace(rows=size) for size in ROW_SIZES if size < bucket.rows)
            return
        columns = column_size(1, self.capacity)
        for index, layer in enumerate(self.layers):
            yield _piece("attention", index, bucket.rows, columns)
            if layer.mlp is not None:
                yield _piece("mlp", index, bucket.rows, 0)

    # -- running -------------------------------------------------------------------------------------------

    def _inputs(self, rows: int) -> Inputs:
        if rows not in self._shelf.inputs:
            self._shelf.inputs[rows] = Inputs(self, rows, self._slots.trash)
        return self._shelf.inputs[rows]

    def _run_whole(
        self, hidden: Tensor, rows: Rows, start: int, stop: int, taps: MutableMapping[int, Tensor]
    ) -> Tensor:
        """A range of layers by one recording."""
        count, columns = hidden.shape[0], self._columns(rows)
        is_chain = rows.is_chain and rows.writes == count
        wanted = tuple(sorted(layer for layer in taps if start < layer <= stop))
        bucket = Bucket("layers", start, stop, row_size(count), columns, is_chain, wanted)
        inputs = self._inputs(bucket.rows)
        inputs.hidden[:count].copy_(hidden)
        if is_chain:
            inputs.place_chain(rows.base, count)
        else:
            inputs.place(rows, count, columns)
        out, *tapped = (one[:count].clone() for one in self._replay(bucket))
        taps.update(zip(wanted, tapped, strict=True))
        return out

    def _run_pieces(
        self, hidden: Tensor, rows: Rows, layers: range, skip: Skip, taps: MutableMapping[int, Tensor]
    ) -> Tensor:
        """One sub-layer after another; between them the rows stay where the inputs are."""
        count, columns = hidden.shape[0], self._columns(rows)
        inputs = self._inputs(row_size(count))
        running = inputs.hidden[:count]
        running.copy_(hidden)
        inputs.place(rows, count, columns)
        for index in layers:
            if index in taps and index > layers.start:
                taps[index] = running.clone()
            if index not in skip.attention:
                self._replay(_piece("attention", index, row_size(count), columns))
            if self.layers[index].mlp is not None and index not in skip.mlp:
                self._replay(_piece("mlp", index, row_size(count), 0))
        out = running.clone()
        if layers.stop in taps:
            taps[layers.stop] = out
        return out

    def _columns(self, rows: Rows) -> int:
        return column_size(rows.base + rows.writes, self.capacity)

    def _replay(self, bucket: Bucket) -> tuple[Tensor, ...]:
        recording = self._shelf.recordings.get(bucket) or self._recording(bucket)
        recording.replay()
        return recording.outputs

    # -- recording -----------------------------------------------------------------------------------------

    def _recording(self, bucket: Bucket) -> Recording:
        """The bucket's recording, made where there is none; the inputs are left as they were."""
        found = self._shelf.recordings.get(bucket)
        if found is None:
            inputs = self._inputs(bucket.rows)
            before = inputs.hidden.clone()
            found = self._recorder.record(partial(self._work, bucket, inputs))
            inputs.hidden.copy_(before)
            self._shelf.recordings[bucket] = found
            self.tally.recorded += 1
        return found

    def _work(self, bucket: Bucket, inputs: Inputs) -> tuple[Tensor, ...]:
        """What is recorded: the unrecorded pass on fixed inputs; a sub-layer leaves its rows among them."""
        layer = self.layers[bucket.start]
        if bucket.part == "mlp" and layer.mlp is not None:
            inputs.hidden.copy_(self._feed_forward(bucket.start, layer.mlp, inputs.hidden, None))
            return ()
        rows, slots = inputs.placed(bucket.columns, bucket.is_chain)
        with self._slots.window(slots, bucket.columns):
            if bucket.part == "step":
                return (self.head(super().run_layers(self.embed(inputs.ids), rows)),)
            if bucket.part == "attention":
                out = self._attend(bucket.start, layer.attention, inputs.hidden, rows, None)
                inputs.hidden.copy_(out)
                return ()
            taps = dict.fromkeys(bucket.taps, inputs.hidden)
            out = super().run_layers(inputs.hidden, rows, bucket.start, bucket.stop, taps=taps)
            return out, *taps.values()


def _piece(part: Part, layer: int, rows: int, columns: int) -> Bucket:
    """One sub-layer's bucket; positions and mask are inputs, worked out once for all layers."""
    return Bucket(part, layer, layer + 1, rows, columns, is_chain=False)
