"""A CUDA device that is not there: tensors that say they live on ``cuda`` and hold a CPU tensor.

Every operation on them passes through `PretendedCuda`, which

- refuses what CUDA refuses: operands on two devices, a CPU generator, reading a number while recording, a
  copy from the host while recording;
- counts, by the line of our code that causes it, what the host waits for (`waits`: reads, boolean indexing,
  copies from memory that is not pinned), what it uploads (`uploads`) and what it launches (`launches`: every
  operation that is no view, and a replay of a recording as one);
- computes the numbers on the CPU, so that a whole answer is decoded and its ids can be compared.

`TapeOnCuda` records as a CUDA graph does: the operations of the work, run again without any Python. Nothing
here says anything about speed or kernels. ``with PretendedCuda() as device:`` is all that a test needs; torch
needs no CUDA build.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Self
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

from bench.runtime.tiers.graph.recorder import Recording

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
READS = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.item.default),
}
SIZED_BY_DATA = {
    *(aten.nonzero.default, aten.masked_select.default, aten._unique2.default),
    aten.unique_consecutive.default,
}
COPIES = {
    *(aten.copy_.default, aten._to_copy.default, aten.to.device, aten.to.dtype, aten.to.other),
    aten.to.dtype_layout,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
FREE = {
    *(aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.lift.default),
    *(aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default),
    *(aten.empty_strided.default, aten.new_empty_strided.default),
}
"""Operations that launch nothing."""
OURS = ("/bench/", "/methods/")


class WrongDeviceError(RuntimeError):
    """What CUDA would refuse."""


class OnCuda(Tensor):
    """A tensor that says it is on CUDA.

    The methods below are those whose Python bindings need a device guard, which a build without CUDA lacks.
    """

    held: Tensor

    @staticmethod
    def __new__(cls: Any, held: Tensor) -> OnCuda:
        made: OnCuda = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
            requires_grad=False,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of `with PretendedCuda()`")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def item(self) -> Any:
        return self.cpu().item()

    def __bool__(self) -> bool:
        return bool(self.cpu())

    def __float__(self) -> float:
        return float(self.cpu())

    def __int__(self) -> int:
        return int(self.cpu())

    def __index__(self) -> int:
        return int(self.cpu())

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __invert__(self) -> Tensor:
        return torch.bitwise_not(self)

    def contiguous(self, **_: Any) -> Tensor:
        return self if self.is_contiguous() else self.clone(memory_format=torch.contiguous_format)

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
        return aten.copy_.default(self, source, non_blocking)  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        return iter(self.unbind())

    def __getitem__(self, index: Any) -> Tensor:
        base, picks = _indexed(self, index)
        return base if picks is None else aten.index.Tensor(base, picks)

    def __setitem__(self, index: Any, value: Any) -> None:
        base, picks = _indexed(self, index)
        if picks is not None:
            stored = value if isinstance(value, Tensor) else torch.full((), value, dtype=self.dtype)
            aten.index_put_.default(base, picks, stored)
        elif isinstance(value, Tensor):
            base.copy_(value)
        else:
            base.fill_(value)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def new_tensor(self, data: Any, **_: Any) -> Tensor:
        return torch.tensor(data, dtype=self.dtype, device=CUDA)

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.held!r})"


def _indexed(tensor: OnCuda, index: Any) -> tuple[OnCuda, list[Any] | None]:
    """A view by all of the index but its tensors, and what `aten.index` takes of these."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(item is Ellipsis for item in items):
        place = next(number for number, item in enumerate(items) if item is Ellipsis)
        used = sum(item is not None and item is not Ellipsis for item in items)
        items[place : place + 1] = [slice(None)] * (tensor.dim() - used)
    view, dim, picks = tensor.held, 0, list[Any]()
    for item in (torch.tensor(item) if isinstance(item, list) else item for item in items):
        if isinstance(item, Tensor) and (item.dim() or item.dtype == torch.bool):
            picks += [None] * (dim - len(picks)) + [item]
            dim += item.dim() if item.dtype == torch.bool else 1
        elif item is None:
            view, dim = view.unsqueeze(dim), dim + 1
        elif isinstance(item, slice):
            start, stop, step = item.indices(view.shape[dim])
            view, dim = aten.slice.Tensor(view, dim, start, max(start, stop), step), dim + 1
        else:
            view = view.select(dim, int(item))  # of a tensor without dimensions torch reads the number
    return (tensor if view is tensor.held else OnCuda(view)), picks or None


class PretendedCuda(TorchDispatchMode):
    """Inside of it, ``cuda`` exists.

    Attributes:
        waits: How often the host waited for the device, by cause and place.
        uploads: How often it copied something there without waiting, by place.
        launches: How many operations it launched, by place.
        is_recording: Whether a recording is being made: then nothing may wait, and nothing is counted.
        tape: The operations of the recording that is being made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.is_recording = False
        self.tape: list[Any] | None = None
        self._is_counting = True
        self._generators: set[int] = set()
        self._pinned: set[int] = set()
        self._kept_alive: list[Any] = []  # so that no address is used twice

    def clear(self) -> None:
        """Start counting anew."""
        for counts in (self.waits, self.uploads, self.launches):
            counts.clear()

    def __enter__(self) -> Self:
        torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
        attention = self._attention(F.scaled_dot_product_attention)
        waiting = partial(self._wait, "torch.cuda.synchronize")
        self._patches: list[Any] = [
            mock.patch.object(F, "scaled_dot_product_attention", attention),
            mock.patch.object(torch, "inference_mode", return_value=nullcontext()),  # all of it is inference
            mock.patch.object(torch, "tensor", _tensor(torch.tensor)),
            mock.patch.object(torch, "Generator", self._generator(torch.Generator)),
            mock.patch.object(torch.cuda, "_lazy_init"),
            mock.patch.object(torch.cuda, "synchronize", waiting),
        ]
        self._inference = torch.inference_mode()
        self._inference.__enter__()
        for patch in self._patches:
            patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for patch in reversed(self._patches):
            patch.stop()
        self._inference.__exit__(*error)

    def _generator(self, own: Any) -> Any:
        known, kept_alive = self._generators, self._kept_alive

        class Generator(own):  # type: ignore[misc]
            def __new__(cls, device: Any = "cpu") -> Any:
                made = own.__new__(cls, "cpu")
                if torch.device(device).type == "cuda":
                    known.add(made._cdata)
                    kept_alive.append(made)
                return made

        return Generator

    def _attention(self, own: Any) -> Any:
        """Attention as one launch, computed by plain operations."""

        def attention(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *,
            attn_mask: Tensor | None = None,
            is_causal: bool = False,
            enable_gqa: bool = False,
        ) -> Tensor:
            options: dict[str, Any] = {"is_causal": is_causal, "enable_gqa": enable_gqa}
            if not isinstance(query, OnCuda):
                return own(query, key, value, attn_mask=attn_mask, **options)  # type: ignore[no-any-return]
            if attn_mask is not None and not isinstance(attn_mask, OnCuda):
                raise WrongDeviceError(f"attention: a mask of the host {_site()}")
            self._launch()
            counted, self._is_counting = self._is_counting, False
            groups = query.shape[1] // key.shape[1] if enable_gqa else 1
            key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
            scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
            if is_causal:
                seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=CUDA).tril()
                scores = scores.masked_fill(torch.bitwise_not(seen), float("-inf"))
            mixed = (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1) @ value
            self._is_counting = counted
            return mixed

        return attention

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, layout = tree_flatten((args, kwargs))
        ours = [value for value in flat if isinstance(value, OnCuda)]
        where = _result_device(func, args, kwargs)
        if func in (aten._pin_memory.default, aten.pin_memory.default):
            return self._pin(args[0])
        if func is aten._has_compatible_shallow_copy_type.default:
            return False  # `nn.Module.to` then makes new parameters
        if not ours and where != "cuda":
            return func(*args, **_on_host(kwargs))
        self._check(func, args, kwargs, flat, ours, where)
        plain = [value.held if isinstance(value, OnCuda) else value for value in flat]
        host_args, host_kwargs = tree_unflatten(plain, layout)
        host_kwargs = _on_host(host_kwargs)
        host_args = tuple(
            torch.device("cpu") if isinstance(value, torch.device) else value for value in host_args
        )
        out = func(*host_args, **host_kwargs)
        if where == "cpu" or func in READS:
            is_same = isinstance(out, Tensor) and any(out is value.held for value in ours)
            return out.clone() if is_same else out  # a copy to where it is already copies nothing
        if func in COPIES and func is not aten.copy_.default and not ours:
            return OnCuda(out.clone() if any(out is value for value in flat) else out)
        if self.tape is not None:
            self.tape.append((func, host_args, host_kwargs, out))
        return _wrapped(out, ours, flat)

    def _pin(self, tensor: Tensor) -> Tensor:
        if self.is_recording:
            raise WrongDeviceError(f"host memory is pinned inside of a recorded pass {_site()}")
        made = tensor.clone()
        self._pinned.add(made.untyped_storage()._cdata)
        self._kept_alive.append(made)
        return made

    def _check(
        self, func: Any, args: Any, kwargs: Any, flat: Sequence[Any], ours: Sequence[Any], where: str | None
    ) -> None:
        """Refuse what CUDA refuses; count what it waits for, uploads and launches."""
        generator = kwargs.get("generator")
        if generator is not None and ours and generator._cdata not in self._generators:
            raise WrongDeviceError(f"{func}: a CPU generator draws for a CUDA tensor {_site()}")
        allowed: list[Any] = []  # tensors of the host that this operation may read
        if func in READS or func in SIZED_BY_DATA:
            self._wait(str(func))
        elif func in INDEXING:
            allowed = self._picks(func, args[1])
        elif func in COPIES:
            allowed = [*flat]
            self._copy(func, args, kwargs, where)
        for value in flat if ours else ():
            is_strange = isinstance(value, Tensor) and not isinstance(value, OnCuda) and value.dim()
            if is_strange and all(value is not other for other in allowed):
                raise WrongDeviceError(f"{func}: operands on cuda:0 and cpu {_site()}")
        if func not in FREE and not _is_view(func):
            self._launch()

    def _picks(self, func: Any, index: Sequence[Any]) -> list[Any]:
        """The tensors of an index; masks and those of the host make the host wait."""
        picks = [pick for pick in index if pick is not None]
        if any(pick.dtype in (torch.bool, torch.uint8) for pick in picks):
            self._wait(f"{func} by a mask")
        if any(not isinstance(pick, OnCuda) and pick.dim() for pick in picks):
            self._wait(f"{func} by indices of the host")
        return picks

    def _copy(self, func: Any, args: Any, kwargs: Any, where: str | None) -> None:
        source = args[1] if func is aten.copy_.default else args[0]
        if where == "cpu" and isinstance(source, OnCuda):
            self._wait(f"{func} to the host")
        elif where == "cuda" and not isinstance(source, OnCuda):
            self._upload(func, args, kwargs, source)

    def _upload(self, func: Any, args: Any, kwargs: Any, source: Tensor) -> None:
        if self.is_recording:
            raise WrongDeviceError(f"{func}: a copy from the host inside of a recorded pass {_site()}")
        is_async = kwargs.get("non_blocking", False) or any(value is True for value in args[1:])
        if is_async and source.untyped_storage()._cdata in self._pinned:
            self.uploads[_site()] += 1
        elif source.dim() or func is not aten.copy_.default:
            self._wait(f"{func} from memory that is not pinned")

    def _wait(self, cause: str, *_: Any) -> None:
        if self.is_recording:
            raise WrongDeviceError(f"{cause} inside of a recorded pass {_site()}")
        if self._is_counting:
            self.waits[f"{cause} {_site()}"] += 1

    def _launch(self) -> None:
        if self._is_counting and not self.is_recording:
            self.launches[_site()] += 1


def _tensor(own: Any) -> Any:
    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        made: Tensor = own(data.tolist() if isinstance(data, Tensor) else data, dtype=dtype)
        return made if device is None else made.to(device)  # from memory that is not pinned, as torch does it

    return tensor


def _result_device(func: Any, args: Any, kwargs: Any) -> str | None:
    """Kind of device that a call names for its result; None if it names none."""
    if func is aten.copy_.default:
        return "cuda" if isinstance(args[0], OnCuda) else "cpu"
    named = kwargs.get("device")
    if named is None:
        named = next((value for value in args if isinstance(value, torch.device)), None)
    return None if named is None else torch.device(named).type


def _on_host(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: torch.device("cpu") if name == "device" and value is not None else value
        for name, value in kwargs.items()
        if name != "pin_memory"
    }


def _wrapped(out: Any, ours: Sequence[OnCuda], flat: Sequence[Any]) -> Any:
    """A result as it is on the device: an input that was written to stays the same object."""
    known = {id(value.held): value for value in ours}
    plain = {id(value) for value in flat if isinstance(value, Tensor) and not isinstance(value, OnCuda)}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, OnCuda) or id(value) in plain:
            return value
        return known[id(value)] if id(value) in known else OnCuda(value)

    return type(out)(map(wrapped, out)) if isinstance(out, tuple | list) else wrapped(out)


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    if func in (aten.reshape.default, aten.contiguous.default, aten.expand_as.default):
        return False
    aliases = [value.alias_info for value in returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _site() -> str:
    """The innermost line of our code that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if any(part in name for part in OURS) and "/tests/" not in name:
            return f"@ {name.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "@ elsewhere"


class TapeOnCuda:
    """Implements `bench.runtime.tiers.graph.recorder.Recorder` on a `PretendedCuda`."""

    def __init__(self, device: PretendedCuda) -> None:
        self._device = device

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> Recording:
        device = self._device
        with _recording(device):
            for _ in range(2):
                work()  # the warm-up, which may change its inputs
            device.tape = []
            outputs = work()
            lines, device.tape = device.tape, None
        kernels = [line for line in lines if not _is_same_memory(*line)]

        def replay() -> None:
            device.launches["@ a recording"] += 1
            with _disable_current_modes():  # type: ignore[no-untyped-call]
                for func, args, kwargs, out in kernels:
                    again = func(*args, **kwargs)
                    for old, new in zip(_tensors(out), _tensors(again), strict=True):
                        if old.data_ptr() != new.data_ptr():
                            old.copy_(new)

        return Recording(replay, outputs)


@contextmanager
def _recording(device: PretendedCuda) -> Iterator[None]:
    device.is_recording = True
    try:
        yield
    finally:
        device.is_recording = False


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [value for value in out if isinstance(value, Tensor)]


def _is_same_memory(func: Any, args: Any, _: Any, out: Any) -> bool:
    """Whether an operation only made a view, which a replay need not make again."""
    if any(value.alias_info is not None and value.alias_info.is_write for value in func._schema.returns):
        return False
    seen = {
        value.untyped_storage().data_ptr() for value in tree_flatten(args)[0] if isinstance(value, Tensor)
    }
    return all(value.untyped_storage().data_ptr() in seen for value in _tensors(out))
