"""The pretended device: what CUDA would refuse is an error, what it costs the host is counted.

`PretendedCuda` refuses operands on two devices, numbers drawn by a generator of the CPU, and, while a pass is
recorded, reading a number back and copies from the host. It counts, by the line of `bench` or `methods` that
causes them:

- waits: the host needs a number from the device, or copies from memory that is not pinned;
- uploads: copies from pinned memory, which do not wait. Copies to pinned memory do not either: their numbers
  arrive with the next wait;
- launches: every operation that is no view; attention counts once, and so does a replayed recording.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from functools import cache
from typing import Any, Self
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.runtime.pretended_cuda.flash import Rule, documented, kernel
from tests.runtime.pretended_cuda.tensors import CUDA, CudaTensor

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.item.default,
}
_SIZED_BY_DATA = {
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
}
_COPIES = {
    _aten.copy_.default,
    _aten._to_copy.default,
    _aten.to.device,
    _aten.to.dtype,
    _aten.to.other,
    _aten.to.dtype_layout,
}
_FREE = {
    _aten.detach.default,
    _aten.alias.default,
    _aten.lift_fresh.default,
    _aten.lift.default,
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.new_empty.default,
    _aten.empty_strided.default,
    _aten.new_empty_strided.default,
}
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
_ALWAYS_NEW = {_aten.reshape.default, _aten.contiguous.default, _aten.expand_as.default}  # if not views
_OUR_CODE = ("/bench/", "/methods/")


class Refused(RuntimeError):
    """What CUDA would refuse."""


class PretendedCuda(TorchDispatchMode):
    """Inside ``with``, the device ``cuda`` exists.

    Args:
        flash: What the rows of its Flash kernel see; a wrong rule makes a faulty device.
        capability: The compute capability that it reports.

    Attributes:
        waits: By call site, how often the host waited.
        uploads: By call site, copies from pinned memory.
        launches: By call site, operations launched.
        is_recording: Whether a pass is recorded at the moment.
        tape: Operations recorded so far; None if none are kept.
        flash_runs: How often the Flash kernel ran, in replays too.
    """

    def __init__(self, flash: Rule = documented, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self._flash, self._capability = flash, capability
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.is_recording = False
        self.flash_runs = 0
        self.tape: list[Any] | None = None
        self._is_counting = True
        # By identity of what is inside; kept alive, so that nothing else gets the same identity.
        self._generators: dict[int, torch.Generator] = {}  # of the device
        self._pinned: dict[int, Tensor] = {}
        self._arriving: list[tuple[Tensor, Tensor]] = []  # copies to pinned memory that have begun

    def clear(self) -> None:
        """Forget all counts."""
        for counts in (self.waits, self.uploads, self.launches):
            counts.clear()

    def __enter__(self) -> Self:
        torch._C._ensureCUDADeviceGuardSet()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            library = torch.library.Library("aten", "IMPL")  # a CPU has no such kernel of its own
            library.impl("_flash_attention_forward", kernel(self._flash, self._note_flash), "CPU")
            stack.callback(library._destroy)
            for owner, name, value in self._replacements():
                stack.enter_context(mock.patch.object(owner, name, value))
            self._entered = stack.pop_all()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()

    def _replacements(self) -> list[tuple[Any, str, Any]]:
        """What torch calls without passing through dispatch."""
        new_tensor, attend, generators = torch.tensor, F.scaled_dot_product_attention, self._generators

        class Generator(torch.Generator):
            def __new__(cls, device: Any = "cpu") -> Any:
                made = torch._C.Generator.__new__(cls, "cpu")
                if torch.device(device).type == "cuda":
                    generators[made._cdata] = made
                return made

        def tensor(data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
            made = new_tensor(data.tolist() if isinstance(data, Tensor) else data, dtype=dtype)
            return made if device is None else made.to(device)  # from pageable memory, as torch does it

        def attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
            is_ours = isinstance(query, CudaTensor)
            return (self._attention if is_ours else attend)(query, key, value, **options)

        return [
            (F, "scaled_dot_product_attention", attention),
            (torch, "inference_mode", lambda mode=True: nullcontext()),  # all of it is inference
            (torch, "tensor", tensor),
            (torch, "Generator", Generator),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "get_device_capability", lambda *_: self._capability),
            (torch.cuda, "synchronize", lambda *_: self._wait("synchronize")),
        ]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat = list(_leaves((*args, *kwargs.values())))
        ours = [item for item in flat if isinstance(item, CudaTensor)]
        if func in (_aten._pin_memory.default, _aten.pin_memory.default):
            return self._pin(args[0])
        if func is _aten._has_compatible_shallow_copy_type.default:
            return False  # `nn.Module.to` then makes new parameters
        place = _result_device(func, args, kwargs)
        if not ours and place != "cuda":
            made = func(*args, **_on_cpu(kwargs))
            return self._pin(made) if kwargs.get("pin_memory") else made
        if func is _aten.copy_.default and self._is_download(*args):
            return self._begin_download(args[0], args[1])
        self._check(func, args, kwargs, flat, bool(ours), place)
        by_id = {id(item.on_cpu): item for item in ours}
        cpu_args = _numbers(args)
        cpu_kwargs = _on_cpu({name: _numbers(value) for name, value in kwargs.items()})
        out = func(*cpu_args, **cpu_kwargs)
        if place == "cpu" or func in _READS:  # the result is on the host
            return out.clone() if isinstance(out, Tensor) and id(out) in by_id else out
        if func in _COPIES and func is not _aten.copy_.default and not ours:
            return CudaTensor(out.clone() if any(out is item for item in flat) else out)
        if self.tape is not None:
            self.tape.append((func, cpu_args, cpu_kwargs, out))
        host = {id(item) for item in flat if isinstance(item, Tensor) and not isinstance(item, CudaTensor)}
        return _wrapped(out, by_id, host)

    def _note_flash(self) -> None:
        self.flash_runs += 1

    def _pin(self, numbers: Tensor) -> Tensor:
        if self.is_recording:
            raise Refused(f"host memory is pinned inside a recorded pass {_site()}")
        made = numbers.clone()
        self._pinned[made.untyped_storage()._cdata] = made
        return made

    def _is_download(self, target: Tensor, source: Tensor, is_async: bool = False) -> bool:
        """Whether a copy goes to pinned memory without a wait."""
        is_pinned = target.untyped_storage()._cdata in self._pinned
        return (
            is_pinned and is_async and isinstance(source, CudaTensor) and not isinstance(target, CudaTensor)
        )

    def _begin_download(self, target: Tensor, source: CudaTensor) -> Tensor:
        """The numbers arrive with the next wait; until then the host finds NaN there."""
        if self.is_recording:
            raise Refused(f"a copy to the host inside a recorded pass {_site()}")
        self._arriving.append((target, source.on_cpu.clone()))
        return target.fill_(float("nan"))

    def _check(self, func: Any, args: Any, kwargs: Any, flat: Any, has_ours: bool, place: str | None) -> None:
        """Refuse what CUDA refuses, and count."""
        generator = kwargs.get("generator")
        if generator is not None and has_ours and generator._cdata not in self._generators:
            raise Refused(f"{func}: a generator of the CPU draws for a CUDA tensor {_site()}")
        foreign = [item for item in flat if isinstance(item, Tensor) and not isinstance(item, CudaTensor)]
        foreign = [item for item in foreign if item.dim()]
        if func in _READS or func in _SIZED_BY_DATA:
            self._wait(str(func))
        elif func in _INDEXING:
            picks = [pick for pick in args[1] if pick is not None]
            self._check_indices(picks)
            foreign = [item for item in foreign if all(item is not pick for pick in picks)]
        elif func in _COPIES:
            self._check_copy(func, args, kwargs, place)
            foreign = []
        if foreign and has_ours:
            raise Refused(f"{func}: operands on cuda:0 and cpu {_site()}")
        if self._is_counting and not self.is_recording and func not in _FREE and not _is_view(func):
            self.launches[_site()] += 1

    def _check_indices(self, picks: list[Tensor]) -> None:
        if any(pick.dtype in (torch.bool, torch.uint8) for pick in picks):
            self._wait("indexing by a mask")
        if any(not isinstance(pick, CudaTensor) and pick.dim() for pick in picks):
            self._wait("indexing by numbers of the host")

    def _check_copy(self, func: Any, args: Any, kwargs: Any, place: str | None) -> None:
        source = args[1] if func is _aten.copy_.default else args[0]
        if place == "cpu" and isinstance(source, CudaTensor):
            self._wait("a copy to the host")
        elif place == "cuda" and not isinstance(source, CudaTensor):
            if self.is_recording:
                raise Refused(f"{func}: a copy from the host inside a recorded pass {_site()}")
            is_pinned = source.untyped_storage()._cdata in self._pinned
            if is_pinned and (kwargs.get("non_blocking", False) or any(item is True for item in args[1:])):
                self.uploads[_site()] += 1
            elif source.dim() or func is not _aten.copy_.default:
                self._wait("a copy from pageable memory")

    def _attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        attn_mask: Any = None,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Scaled dot-product attention by plain operations, counted as one launch."""
        if attn_mask is not None and not isinstance(attn_mask, CudaTensor):
            raise Refused(f"attention: a mask of the host {_site()}")
        if not self.is_recording and self._is_counting:
            self.launches[_site()] += 1
        before, self._is_counting = self._is_counting, False
        if enable_gqa:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
        scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=CUDA).tril()
            scores = scores.masked_fill(torch.bitwise_not(seen), float("-inf"))
        if attn_mask is not None:
            scores = scores + attn_mask
        mixed: Tensor = scores.softmax(dim=-1) @ value
        self._is_counting = before
        return mixed

    def _wait(self, reason: str) -> None:
        if self.is_recording:
            raise Refused(f"{reason} inside a recorded pass {_site()}")
        for target, numbers in self._arriving:
            target.copy_(numbers)
        self._arriving.clear()
        if self._is_counting:
            self.waits[f"{reason} {_site()}"] += 1


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """What a call's operands hold; an operand is a value or a list of them."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _leaves(value)
        else:
            yield value


def _numbers(value: Any) -> Any:
    """An operand as the CPU's own operation takes it."""
    if isinstance(value, CudaTensor):
        return value.on_cpu
    if isinstance(value, (tuple, list)):
        return type(value)([_numbers(item) for item in value])
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _result_device(func: Any, args: Any, kwargs: Any) -> str | None:
    """Kind of device that a call names for its result; None where it follows from the operands."""
    if func is _aten.copy_.default:
        return "cuda" if isinstance(args[0], CudaTensor) else "cpu"
    named = kwargs.get("device") or next((item for item in args if isinstance(item, torch.device)), None)
    return None if named is None else torch.device(named).type


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name for the CPU's own operation."""
    kept = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    return kept | ({"device": torch.device("cpu")} if kept.get("device") is not None else {})


def _wrapped(out: Any, by_id: dict[int, CudaTensor], host: set[int]) -> Any:
    """A result as tensors of the device; operands that were written in place stay the same objects."""
    if isinstance(out, (tuple, list)):
        return type(out)(_wrapped(value, by_id, host) for value in out)
    if not isinstance(out, Tensor) or isinstance(out, CudaTensor) or id(out) in host:
        return out
    return by_id[id(out)] if id(out) in by_id else CudaTensor(out)


@cache
def _is_view(func: Any) -> bool:
    infos = [value.alias_info for value in func._schema.returns]
    is_alias = bool(infos) and all(info is not None and not info.is_write for info in infos)
    return is_alias and func not in _ALWAYS_NEW


def _site() -> str:
    """The innermost line of our own code that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if _is_our_code(file):
            return f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of bench and methods"


@cache
def _is_our_code(file: str) -> bool:
    return any(part in file for part in _OUR_CODE) and "/tests/" not in file
