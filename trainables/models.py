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
    input_shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int] = (300, 100),
    width: float = 1,
) -> nn.Module:
    """Linear layers of the given hidden widths (times `width`) with ReLU between them;
    LeNet-300-100 by default.
    """
    is_list = isinstance(widths, Sequence)
    if not is_list or not all(_is_count(units) for units in widths):
        raise Mistake(f"`widths` is a list of whole numbers above 0; got {widths!r}")
    inputs = math.prod(input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for own_width in widths:
        units = _times(width, own_width)
        hidden = nn.Linear(inputs, units)
        layers += [hidden, nn.ReLU()]
        inputs = units
    last = nn.Linear(inputs, classes)
    return nn.Sequential(*layers, last)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _is_stage(value: Any) -> bool:
    return _is_list(value) and all(map(_is_count, value))


def _times(width: float, units: int) -> int:
    """A layer's units at a multiple of its width: the nearest whole number, and at least one."""
    is_number = isinstance(width, int | float) and not isinstance(width, bool)
    if not is_number or not 0 < width < math.inf:
        raise Mistake(f"`width` is a number above 0; got {width!r}")
    nearest = round(width * units)
    return max(1, nearest)


def lenet5(input_shape: tuple[int, ...], classes: int, width: float = 1) -> nn.Module:
    """Caffe's LeNet-5, 20-50-500 (after LeCun et al. 1998): max-pooling and no activation after the
    convolutions.

    width: a factor of 20, 50 and 500.
    """
    channels = _image(input_shape, 16)
    pixels = 1
    for side in input_shape[1:]:
        pooled = (side - 4) // 2
        pixels *= (pooled - 4) // 2
    first = _times(width, 20)
    second = _times(width, 50)
    hidden = _times(width, 500)
    return nn.Sequential(
        nn.Conv2d(channels, first, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * pixels, hidden),
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
        thinned = x[:, :, :: self.stride, :: self.stride]
        behind_channels = (0, 0, 0, 0, 0, self.more)
        return F.pad(thinned, behind_channels)


class _Block(nn.Module):
    """Two convolutions with batch-norm beside a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _Shortcut(stride, outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, columns)."""
        shortcut = self.shortcut(x)
        hidden = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(hidden))
        return F.relu(shortcut + branch)


def resnet(
    input_shape: tuple[int, ...],
    classes: int,
    depth: int = 20,
    width: float = 1,
) -> nn.Module:
    """The residual network for CIFAR (He et al. 2016, section 4.2): three stages of (depth - 2) / 6
    blocks of two convolutions.

    width: a factor of the stages' 16, 32 and 64 channels.
    """
    if type(depth) is not int or depth < 8 or depth % 6 != 2:
        rule = "`depth` is a whole number 6 n + 2, such as 20, with n blocks in a stage"
        raise Mistake(f"{rule}; got {depth!r}")
    channels = _image(input_shape, 4)
    widths = [_times(width, units) for units in (16, 32, 64)]
    blocks = (depth - 2) // 6
    before = widths[0]
    first = nn.Conv2d(channels, before, 3, 1, 1, bias=False)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(before), nn.ReLU()]
    for stage, after in enumerate(widths):
        for number in range(blocks):
            is_smaller = stage > 0 and number == 0
            stride = 2 if is_smaller else 1
            block = _Block(before, after, stride)
            layers.append(block)
            before = after
    layers += _classifier(before, classes)
    network = nn.Sequential(*layers)
    return _he(network)


def _classifier(channels: int, classes: int) -> list[nn.Module]:
    """The mean over positions, and a linear layer."""
    mean = nn.AdaptiveAvgPool2d(1)
    linear = nn.Linear(channels, classes)
    return [mean, nn.Flatten(), linear]


def vgg16_bn(input_shape: tuple[int, ...], classes: int, width: float = 1) -> nn.Module:
    """VGG-16 (Simonyan & Zisserman 2015, D) with batch-norm, and one linear layer after the
    convolutions, as usual for CIFAR.

    width: a factor of all channels.
    """
    channels = _image(input_shape, 32)
    stages = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    return _stages(channels, classes, stages, width)


def vgg(
    input_shape: tuple[int, ...],
    classes: int,
    stages: Sequence[Sequence[int]] = ((16, 16), (32, 32)),
    width: float = 1,
) -> nn.Module:
    """A chain like VGG-16: stages of convolutions with batch-norm, pooling after each, and one
    linear layer.

    stages: the channels of the convolutions of each stage.  width: a factor of all channels.
    """
    if not _is_list(stages) or not all(map(_is_stage, stages)):
        rule = "`stages` is a list of lists of whole numbers above 0, such as [[16, 16], [32, 32]]"
        raise Mistake(f"{rule}; got {stages!r}")
    channels = _image(input_shape, 2 ** len(stages))
    return _stages(channels, classes, stages, width)


def _stages(
    channels: int,
    classes: int,
    stages: Sequence[Sequence[int]],
    width: float,
) -> nn.Module:
    """Convolutions with batch-norm, pooling after each stage, and a classifier."""
    layers: list[nn.Module] = []
    for stage in stages:
        for units in stage:
            after = _times(width, units)
            convolution = nn.Conv2d(channels, after, 3, 1, 1)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
            channels = after
        pooling = nn.MaxPool2d(2)
        layers.append(pooling)
    layers += _classifier(channels, classes)
    network = nn.Sequential(*layers)
    return _he(network)


class _LinearBlock(nn.Module):
    """x + V relu(U x)."""

    def __init__(self, units: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(units, hidden)
        self.outer = nn.Linear(hidden, units)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, units)."""
        hidden = F.relu(self.inner(x))
        return x + self.outer(hidden)


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
        if not _is_count(value):
            raise Mistake(f"`{name}` is a whole number above 0; got {value!r}")
    units = _times(width, units)
    hidden = _times(width, hidden)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(input_shape), units)]
    for _ in range(blocks):
        layers.append(_LinearBlock(units, hidden))
    layers.append(nn.ReLU())
    layers.append(nn.Linear(units, classes))
    return nn.Sequential(*layers)


def _image(input_shape: tuple[int, ...], side: int) -> int:
    """The channels of images of at least `side` x `side`."""
    is_image = len(input_shape) == 3
    if not is_image or min(input_shape[1:]) < side:
        needed = f"images (channels, height, width) of at least {side} x {side}"
        raise Mistake(f"it needs {needed}; got {input_shape}")
    return input_shape[0]


def _he(module: nn.Module) -> nn.Module:
    """`module`, its convolutions initialised after He et al. 2015 (fan-out)."""
    for part in module.modules():
        if not isinstance(part, nn.Conv2d):
            continue
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
    "vgg": vgg,
    "vgg16_bn": vgg16_bn,
}


def build(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    **options: Any,
) -> nn.Module:
    """The model `name` for inputs of `input_shape` (without batch) and `classes` outputs.

    name: a key of MODELS, or the dotted path of a callable (input_shape, classes, **options) ->
    nn.Module. Raises Mistake naming what is wrong with the name or the options.
    """
    module = call("model", name, MODELS, input_shape, classes, **options)
    if not isinstance(module, nn.Module):
        got = type(module).__name__
        raise Mistake(f"model {name}: a model returns an nn.Module; got {got}")
    return module


def lookup(name: str, known: dict[str, Callable[..., Any]], noun: str) -> Callable[..., Any]:
    """The callable that `name` stands for: one of ours, or one found by its dotted path."""
    if name in known:
        return known[name]
    if "." not in name:
        path = f"a dotted path such as package.module.{noun}"
        raise Mistake(f'no {noun} "{name}";{hint(name, known)}, or {path}')
    module, _, attribute = name.rpartition(".")
    where = f"{noun} {name}"
    try:
        home = imported(module)
        function = getattr(home, attribute)
    except Mistake as error:
        raise Mistake(f"{where}: {error}") from None
    except (Exception, SystemExit) as error:  # importing runs anybody's code
        why = raised(error)
        raise Mistake(f"{where}: cannot be imported ({why})") from error
    if not callable(function):
        kind = type(function).__name__
        raise Mistake(f"{where}: a {noun} is a callable; got {kind}")
    return function


def call(
    noun: str,
    name: str,
    known: dict[str, Callable[..., Any]],
    /,
    *given: Any,
    **options: Any,
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
        is_ours = name in known and noun != "dataset"
        if is_ours and not theirs(error):
            raise  # a fault of ours; what a reader of ours cannot read is the file's
        arguments = [repr(value) for value in given]
        arguments += [f"{key}={value!r}" for key, value in options.items()]
        listed = ", ".join(arguments)
        why = f"called with ({listed}) it raised {raised(error)}"
        raise Mistake(f"{noun} {name}: {why}") from error


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
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        file = frame.filename
        if _is_ours(file) or not _is_library(Path(file)):
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
            place = path.parts.index(folder)
            return path.parts[place + 1] in _PACKAGES
    return not path.is_file() or path.is_relative_to(_PYTHON)


_HERE = Path(__file__).resolve().parent
_PYTHON = Path(sysconfig.get_path("stdlib"))
_PACKAGES = """
    PIL functorch numpy optuna pandas pyarrow ray safetensors scipy sklearn torch torchvision
    typing_extensions.py
    """.split()


def options(function: Callable[..., Any], given: int = 0) -> tuple[dict[str, bool], bool]:
    """Options that `function` takes after its first `given` arguments, name -> whether it must be
    there; and if others too.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some that are written in C do not say
        return {}, True
    names: dict[str, bool] = {}
    takes_any = False
    parameters = signature.parameters.values()
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif place >= given and parameter.kind in _NAMED:
            is_required = parameter.default is parameter.empty
            names[parameter.name] = is_required
    return names, takes_any


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: the nearest one, and all."""
    known = list(known)
    listed = f" known: {', '.join(known) or 'none'}"
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    if not nearest:
        return listed
    return f' did you mean "{nearest[0]}"?{listed}'
