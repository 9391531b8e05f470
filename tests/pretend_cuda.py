"""A pretend GPU: tensors that say that they are on cuda:0, whose values the CPU computes.

    with PretendGpu() as gpu:
        ...                  # here `device="cuda"` works, and torch.cuda.is_available() is True
    gpu.mixed, gpu.waits, gpu.kernels

To torch's C++ such a tensor is on the device `meta`, which autograd and vmap take as they take a
CPU; Python is told cuda:0. Each operation is computed from the values that its tensors hold.

It refuses what CUDA refuses: CPU tensors beside those of the device, but for numbers () in
pointwise operations, indices, and copies. It counts what costs time on a GPU: operations that
launch work there, and waits of the host, for a copy, a value, or a shape that depends on values.
It does not imitate time, kernels that CUDA lacks for a type, other rounding, C++ code that asks
whether a tensor is CUDA's, or the waits of large asynchronous copies from memory that is not pinned.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prunefront import trainables
from prunefront.trainables.watch import Watch, tensors_in

CUDA, META, CPU = torch.device("cuda:0"), torch.device("meta"), torch.device("cpu")
PRODUCT = Path(trainables.__file__).parent
"""The code whose lines are named."""
ROOM = 80 << 30
"""Bytes of memory, where no test says otherwise."""

READS = (
    "_local_scalar_dense",
    "bincount",
    "equal",
    "linalg_eig",
    "linalg_lstsq",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
    "_unique",
    "_unique2",
)
"""Operations in which the host waits for a value, or for how large the result is."""
NO_KERNEL = (
    "alias",
    "as_strided",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "view",
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_reshape_alias",
    "_unsafe_view",
)
"""Operations that launch nothing; views, too, launch nothing."""
TAKE_NUMBERS = ("copy_", "fill", "fill_", "lerp", "masked_fill", "masked_fill_")
"""Operations that take a CPU tensor () beside those of the device, as pointwise ones do."""
MOVE_NUMBERS = ("index_put", "index_put_", "where", "_index_put_impl_")
"""Those that copy it to the device first, for which the host waits."""
INDEXING = (
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "_unsafe_index",
    "_unsafe_index_put",
)
"""Operations whose second argument is a list of indices."""


class Wait(NamedTuple):
    """Why the host waited for the device, and the line of the product that made it."""

    why: str
    line: str


class OnDevice(Tensor):
    """A tensor of the pretend GPU."""

    held: Tensor
    """Its values, on the CPU."""

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        tensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=META,
        )
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: OnDevice) -> None:
        """Modules that change their type give their parameters other data."""
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held = other.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            rule = "can't convert cuda:0 device type tensor to numpy"
            raise TypeError(f"{rule}. Use Tensor.cpu() to copy the tensor to host memory first.")
        return self.detach().cpu().numpy()

    def __array__(self, *given: Any, **named: Any) -> Any:
        return self.numpy()

    def untyped_storage(self) -> torch.UntypedStorage:
        """That of the values: views of one memory share it."""
        return self.held.untyped_storage()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"on cuda:0, {self.held!r}"

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        raise RuntimeError(f"{func} of a tensor of a pretend GPU, outside of it")


class PretendGpu(Watch):
    """The GPU, while it is entered.

    limit: bytes of tensors that may be alive at a time; torch.OutOfMemoryError for more.
    waits: how often the host waited, by reason and line.  kernels: operations that launched work on
    the device, by name.  mixed: what was refused, for product code may catch what is raised.
    in_use, peak: bytes of tensors that are alive, and the most that were.
    """

    def __init__(self, limit: int = ROOM) -> None:
        super().__init__()
        self.limit = limit
        self.in_use = self.peak = 0
        self.waits: Counter[Wait] = Counter()
        self.kernels: Counter[str] = Counter()
        self.mixed: Counter[Wait] = Counter()
        self._patches = contextlib.ExitStack()
        self._storages: set[int] = set()

    def __enter__(self) -> PretendGpu:
        for name, value in self._functions().items():
            patch = mock.patch.object(torch.cuda, name, value)
            self._patches.enter_context(patch)
        # torch's optimisers would ask the driver whether it captures a graph.
        no_accelerator = mock.patch.object(torch.accelerator, "is_available", _no)
        self._patches.enter_context(no_accelerator)
        # A module that is brought to the device keeps its parameters, tied ones tied.
        swaps = mock.patch.object(torch.__future__, "_swap_module_params_on_conversion", True)
        self._patches.enter_context(swaps)
        # Backward passes on the thread of the test, so that they have a line.
        one_thread = torch.autograd.set_multithreading_enabled(False)
        self._patches.enter_context(one_thread)
        self._patches.enter_context(_Translated())
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._patches.close()

    def clear(self) -> None:
        """Count anew."""
        self.waits.clear()
        self.kernels.clear()
        self.mixed.clear()

    def _functions(self) -> dict[str, Callable[..., Any]]:
        """What stands in for functions of torch.cuda."""

        def synchronize(device: Any = None) -> None:
            self._wait("synchronize")

        def memory(device: Any = None) -> tuple[int, int]:
            return self.limit - self.in_use, self.limit

        def random_state(device: Any = None) -> Tensor:
            return torch.zeros(16, dtype=torch.uint8)

        # Each a function of its own: torch's compiler has a rule for each.
        return {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda device=None: "pretend GPU",
            "get_device_capability": lambda device=None: (9, 0),
            "mem_get_info": memory,
            "memory_allocated": lambda device=None: self.in_use,
            "max_memory_allocated": lambda device=None: self.peak,
            "get_rng_state": random_state,
            "set_rng_state": lambda state, device=None: None,
            "manual_seed_all": lambda seed: None,
            "empty_cache": lambda: None,
            "synchronize": synchronize,
            "_lazy_init": lambda: None,
        }

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        named = dict(kwargs or {})
        given = list(tensors_in([args, named]))
        reads_device = any(isinstance(tensor, OnDevice) for tensor in given)
        lands_on_device = reads_device
        if named.get("device") is not None:
            lands_on_device = torch.device(named["device"]) == META
            named["device"] = CPU
        named.pop("pin_memory", None)
        if name in ("_to_copy", "copy_"):
            self._note_copy(name, args, named, lands_on_device)
        elif reads_device:
            self._refuse_mixed(func, name, args, given)
            self._note_reads(name, args, named)
        owners: dict[int, OnDevice] = {}

        def values(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, OnDevice):
                return tensor
            held = tensor.held
            assert held.shape == tensor.shape, f"{name}: shapes are changed in place"
            assert held.dtype == tensor.dtype, f"{name}: types are changed in place"
            owners[id(held)] = tensor
            return held

        computed = func(*_mapped(values, args), **_mapped(values, named))
        if name == "copy_" and not isinstance(args[0], OnDevice):
            return args[0]
        if not lands_on_device:
            return computed
        if not func.is_view and name not in NO_KERNEL:
            self.kernels[name] += 1

        def on_device(tensor: Tensor) -> Tensor:
            owner = owners.get(id(tensor))
            if owner is None:
                owner = OnDevice(tensor)
                self._hold(tensor)
            return owner

        return _mapped(on_device, computed)

    # ---- what CUDA refuses, and where the host waits

    def _refuse_mixed(self, func: Any, name: str, args: Any, given: list[Tensor]) -> None:
        """Raise RuntimeError for CPU tensors where CUDA takes none."""
        strangers = [tensor for tensor in given if not isinstance(tensor, OnDevice)]
        if name in INDEXING and isinstance(args[0], OnDevice):
            indices = list(tensors_in(args[1]))
            strangers = [tensor for tensor in strangers if not _is_among(tensor, indices)]
        takes_numbers = torch.Tag.pointwise in func.tags or name in TAKE_NUMBERS
        if takes_numbers or name in MOVE_NUMBERS:
            strangers = [tensor for tensor in strangers if tensor.ndim]
        if not strangers:
            return
        self.mixed[Wait(name, self._line())] += 1
        rule = "Expected all tensors to be on the same device"
        raise RuntimeError(f"{rule}, but found at least two devices, cuda:0 and cpu! ({name})")

    def _note_copy(self, name: str, args: Any, named: Any, lands_on_device: bool) -> None:
        """Count the wait of a copy between host and device."""
        source = args[0]
        if name == "copy_":
            lands_on_device = isinstance(args[0], OnDevice)
            source = args[1]
        leaves_device = isinstance(source, OnDevice)
        if leaves_device == lands_on_device:
            return
        if leaves_device:
            self._wait("copy to the host")
            return
        # From memory that is not pinned CUDA stages few numbers at once, and returns.
        is_asynchronous = named.get("non_blocking", False)
        if name == "copy_":
            is_asynchronous = is_asynchronous or args[2:] == (True,)
        if not is_asynchronous:
            self._wait("copy to the device")

    def _note_reads(self, name: str, args: Any, named: Any) -> None:
        """Count the waits of an operation of tensors on the device."""
        if name in READS:
            self._wait(name)
        if name == "repeat_interleave" and named.get("output_size") is None:
            self._wait(name)
        if name in INDEXING:
            self._note_indices(args)
        if name in MOVE_NUMBERS:
            operands = [part for part in args if isinstance(part, Tensor)]
            if any(not isinstance(tensor, OnDevice) for tensor in operands):
                self._wait("number to the device")

    def _note_indices(self, args: Any) -> None:
        """Count the waits for indices: a mask's number of places, or places that the host has."""
        indices = list(tensors_in(args[1]))
        is_fill = len(args) > 2 and args[2].numel() == 1  # of one number, where the mask says
        if any(index.dtype == torch.bool for index in indices) and not is_fill:
            self._wait("index by a mask")
        if any(not isinstance(index, OnDevice) for index in indices):
            self._wait("index to the device")

    def _wait(self, why: str) -> None:
        self.waits[Wait(why, self._line())] += 1

    def _line(self) -> str:
        """The innermost line of the product that is running."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PRODUCT):
                return f"{path.relative_to(PRODUCT)}:{frame.f_lineno}"
            frame = frame.f_back
        return "none"

    # ---- memory

    def _hold(self, tensor: Tensor) -> None:
        """Count a tensor's memory as long as it is alive."""
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._storages:
            return
        size = storage.nbytes()
        if self.in_use + size > self.limit:
            rule = f"CUDA out of memory. Tried to allocate {size:,} bytes"
            raise torch.OutOfMemoryError(f"{rule} beside {self.in_use:,} of {self.limit:,}")
        self._storages.add(place)
        self.in_use += size
        self.peak = max(self.peak, self.in_use)
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        self._storages.discard(place)
        self.in_use -= size


class _Translated(TorchFunctionMode):
    """Gives torch's C++ the device `meta` where Python says cuda, and says cuda of it again."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        args = tuple(_to_meta(value) for value in args)
        named = dict(kwargs or {})
        if "device" in named:
            named["device"] = _to_meta(named["device"])
        if func in _MADE_FROM_VALUES and named.get("device") == META:
            # Made on `meta` it would have no values.
            made = func(*args, **{**named, "device": CPU})
            return made.to(META)
        if func is Tensor.cuda:
            return args[0].to(META)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            tensor, index, *rest = args
            args = (tensor, _index(index), *rest)
        answer = func(*args, **named)
        if isinstance(answer, torch.device) and answer == META:
            return CUDA
        if func == _IS_CUDA:  # of what vmap wraps; others answer themselves
            return args[0].device == CUDA
        if func == _IS_META:
            return False
        return answer


_MADE_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)
_IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_IS_META = Tensor.is_meta.__get__  # type: ignore[attr-defined]


def _no() -> bool:
    return False


def _to_meta(value: Any) -> Any:
    """`meta` for a CUDA device; anything else as it is."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return META
    if isinstance(value, str) and value.startswith("cuda"):
        return META
    return value


def _index(index: Any) -> Any:
    """An index in which lists of places are tensors: torch would make them on the device."""
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    if isinstance(index, list):
        return torch.tensor(index)
    return index


def _is_among(tensor: Tensor, others: list[Tensor]) -> bool:
    return any(tensor is other for other in others)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """An operation's arguments or results, with `function` applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(function, part) for part in value)
    if isinstance(value, dict):
        return {name: _mapped(function, part) for name, part in value.items()}
    return value


@contextlib.contextmanager
def counted(gpu: PretendGpu) -> Iterator[tuple[Counter[Wait], Counter[str]]]:
    """The waits and kernels of what runs inside, known when it has ended."""
    waits_before, kernels_before = Counter(gpu.waits), Counter(gpu.kernels)
    waits: Counter[Wait] = Counter()
    kernels: Counter[str] = Counter()
    yield waits, kernels
    waits.update(gpu.waits - waits_before)
    kernels.update(gpu.kernels - kernels_before)
