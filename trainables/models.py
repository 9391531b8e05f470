"""Models by name, or by the dotted path of anything that returns an `nn.Module`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..analysis.rows import mistake
from ..analysis.rows.mistake import Mistake
from .own import imported


def mlp(
    input_shape: tuple[int, ...], classes: int, widths: Sequence[int] = (300, 100), width: float = 1
) -> nn.Module:
    """Linear layers of the given hidden widths (times `width`) with ReLU between them;
    LeNet-300-100 by default.
    """
    if not isinstance(widths, Sequence) or not all(
        type(units) is int and units > 0 for units in widths
    ):
        raise Mistake(f"`widths` is a list of whole numbers above 0; got {widths!r}")
    inputs = 1
    for extent in input_shape:
        inputs *= extent
    layers: list[nn.Module] = [nn.Flatten()]
    for units in (_times(width, units) for units in widths):
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _times(width: float, units: int) -> int:
    """A layer's units at a multiple of its width: the nearest whole number, and at least one."""
    if not isinstance(width, int | float) or isinstance(width, bool) or not 0 < width < math.inf:
        raise Mistake(f"`width` is a number above 0; got {width!r}")
    return max(1, round(width * units))


def lenet5(input_shape: tuple[int, ...], classes: int, width: float = 1) -> nn.Module:
    """Caffe's LeNet-5, 20-50-500 (after LeCun et al. 1998): max-pooling and no activation after the
    convolutions.

    width: a factor of 20, 50 and 500.
    """
    channels = _image(input_shape, 16)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in input_shape[1:])
    first, second, hidden = (_times(width, units) for units in (20, 50, 500))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * rows * columns, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


class _Shortcut(nn.Module):
    """Every second row and column, and zeros for the channels that are new (He et al. 2016, option
    A): no parameters.
    """

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, columns)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class _Block(nn.Module):
    """Two convolutions with batch-norm beside a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else _Shortcut(stride, outputs - inputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, columns)."""
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def resnet(
    input_shape: tuple[int, ...], classes: int, depth: int = 20, width: float = 1
) -> nn.Module:
    """The residual network for CIFAR (He et al. 2016, section 4.2): three stages of (depth - 2) / 6
    blocks of two convolutions.

    width: a factor of the stages' 16, 32 and 64 channels.
    """
    if type(depth) is not int or depth < 8 or depth % 6 != 2:
        raise Mistake(
            f"`depth` is a whole number 6 n + 2, such as 20, with n blocks in a stage; got {depth!r}"
        )
    channels = _image(input_shape, 4)
    widths = [_times(width, units) for units in (16, 32, 64)]
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    before = widths[0]
    for stage, after in enumerate(widths):
        for block in range((depth - 2) // 6):
            layers.append(_Block(before, after, 2 if stage and not block else 1))
            before = after
    module = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
    )
    return _he(module)


def vgg16_bn(input_shape: tuple[int, ...], classes: int, width: float = 1) -> nn.Module:
    """VGG-16 (Simonyan & Zisserman 2015, D) with batch-norm, and one linear layer after the
    convolutions, as usual for CIFAR.

    width: a factor of all channels.
    """
    channels = _image(input_shape, 32)
    layers: list[nn.Module] = []
    for repeat, units in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeat):
            after = _times(width, units)
            layers += [nn.Conv2d(channels, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
            channels = after
        layers.append(nn.MaxPool2d(2))
    return _he(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    )


class _LinearBlock(nn.Module):
    """x + V relu(U x)."""

    def __init__(self, units: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(units, hidden), nn.Linear(hidden, units)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, units)."""
        return x + self.outer(F.relu(self.inner(x)))


def residual_mlp(
    input_shape: tuple[int, ...],
    classes: int,
    units: int = 32,
    hidden: int = 32,
    blocks: int = 6,
    width: float = 1,
) -> nn.Module:
    """A linear layer to `units`, `blocks` times x + V relu(U x) with `hidden` units between U and
    V, and a linear layer.

    width: a factor of `units` and `hidden`.
    """
    for name, value in (("units", units), ("hidden", hidden), ("blocks", blocks)):
        if type(value) is not int or value < 1:
            raise Mistake(f"`{name}` is a whole number above 0; got {value!r}")
    units, hidden = _times(width, units), _times(width, hidden)
    body = (_LinearBlock(units, hidden) for _ in range(blocks))
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), units),
        *body,
        nn.ReLU(),
        nn.Linear(units, classes),
    )


def _image(input_shape: tuple[int, ...], side: int) -> int:
    """The channels of images of at least `side` x `side`."""
    if len(input_shape) != 3 or min(input_shape[1:]) < side:
        raise Mistake(
            f"it needs images (channels, height, width) of at least {side} x {side}; got {input_shape}"
        )
    return input_shape[0]


def _he(module: nn.Module) -> nn.Module:
    """`module`, its convolutions initialised after He et al. 2015 (fan-out)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "residual_mlp": residual_mlp,
    "lenet5": lenet5,
    "resnet": resnet,
    **{f"resnet{depth}": functools.partial(resnet, depth=depth) for depth in (20, 32, 56, 110)},
    "vgg16_bn": vgg16_bn,
}


def build(name: str, input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """The model `name` for inputs of `input_shape` (without batch) and `classes` outputs.

    name: a key of MODELS, or the dotted path of a callable (input_shape, classes, **options) ->
    nn.Module. Raises Mistake naming what is wrong with the name or the options.
    """
    module = call("model", name, MODELS, input_shape, classes, **options)
    if not isinstance(module, nn.Module):
        raise Mistake(f"model {name}: a model returns an nn.Module; got {type(module).__name__}")
    return module


def lookup(name: str, known: dict[str, Callable[..., Any]], noun: str) -> Callable[..., Any]:
    """The callable that `name` stands for: one of ours, or one found by its dotted path."""
    if name in known:
        return known[name]
    if "." not in name:
        raise Mistake(
            f'no {noun} "{name}";{hint(name, known)}, or a dotted path such as package.module.{noun}'
        )
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(imported(module), attribute)
    except Mistake as error:
        raise Mistake(f"{noun} {name}: {error}") from None
    except (Exception, SystemExit) as error:  # importing runs anybody's code
        raise Mistake(f"{noun} {name}: cannot be imported ({raised(error)})") from error
    if not callable(found):
        raise Mistake(f"{noun} {name}: a {noun} is a callable; got {type(found).__name__}")
    return found


def call(
    noun: str, name: str, known: dict[str, Callable[..., Any]], /, *given: Any, **options: Any
) -> Any:
    """What the callable that `name` stands for returns. Raises Mistake naming it, whatever it
    raises.
    """
    function = lookup(name, known, noun)
    try:
        return function(*given, **options)
    except Mistake as error:
        raise Mistake(f"{noun} {name}: {error}") from error
    except (Exception, SystemExit) as error:  # anybody's code
        if name in known and noun != "dataset" and not theirs(error):
            raise  # a fault of ours; what a reader of ours cannot read is the file's
        what = ", ".join(
            [*map(repr, given), *(f"{key}={value!r}" for key, value in options.items())]
        )
        raise Mistake(f"{noun} {name}: called with ({what}) it raised {raised(error)}") from error


def raised(error: BaseException) -> str:
    """An exception on one line: type, first line of its text, and where in a user's own file it was
    raised.
    """
    text = mistake.raised(error)
    place = _place(error)
    if place is None or _is_ours(place.filename):
        return text
    return f"{text} ({Path(place.filename).name}, line {place.lineno})"


def theirs(error: BaseException) -> bool:
    """Whether an exception comes from a user's code, or from a library that was given a user's
    model or values.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return not _is_ours(frames[-1].filename)


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turn what a user's code inside raises into a Mistake about `what`; an exception of our own
    code passes.
    """
    try:
        yield
    except Mistake:
        raise
    except (Exception, SystemExit) as error:
        if not theirs(error):
            raise
        raise Mistake(f"{what}; it raised {raised(error)}") from error


def _place(error: BaseException) -> traceback.FrameSummary | None:
    """The last call on the way to an exception that is in a file of ours or of a user."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_ours(frame.filename) or not _is_library(Path(frame.filename)):
            return frame
    return None


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_HERE)


def _is_library(path: Path) -> bool:
    """Whether a file is of Python or of a package that we use; what else is installed may be a
    user's own.
    """
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts:
            package = path.parts[path.parts.index(folder) + 1]
            return package in _PACKAGES
    return not path.is_file() or path.is_relative_to(_PYTHON)


_HERE = Path(__file__).resolve().parent
_PYTHON = Path(sysconfig.get_path("stdlib"))
_PACKAGES = ("PIL", "functorch", "numpy", "optuna", "pandas", "pyarrow", "ray", "safetensors", "scipy", "sklearn", "torch",
             "torchvision", "typing_extensions.py")  # fmt: skip


def options(function: Callable[..., Any], given: int = 0) -> tuple[dict[str, bool], bool]:
    """Options that `function` takes after its first `given` arguments, name -> whether it must be
    there; and if others too.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # some that are written in C do not say
        return {}, True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {p.name: p.default is p.empty for p in parameters[given:] if p.kind in named}
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: the nearest one, and all."""
    known = list(known)
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    return (
        f' did you mean "{nearest[0]}"?' if nearest else ""
    ) + f" known: {', '.join(known) or 'none'}"
