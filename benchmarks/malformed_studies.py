"""Malformed studies drawn at random from a grammar of mistakes: each ends with exit code 2 and one
sentence, before Ray starts.

    python benchmarks/malformed_studies.py [--count 200] [--seed 0]

A study that is right is spoilt by one mistake of a kind drawn at random, with a value drawn at
random. `prunefront run` is called in this process, with a Ray that must not start. Printed are the
studies of each kind, and those that did not end as they should.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from prunefront.search import BAD_INPUT, cli
from prunefront.search.drive import cluster, handout
from prunefront.trainables import algorithms
from prunefront.trainables.data import splits

MODULE = '''
"""What a user might write, most of it wrong."""
import sys
import numpy as np
import torch
from torch import nn
from prunefront.trainables.training.pruner import GradientPruner, space
from prunefront.trainables.domain import Domain

number = 3
def _net(classes, *last): return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), *last, nn.Linear(6, classes))
class _Wrong(nn.Module):
    """Does `what` where it is wrong."""
    def __init__(self, classes, what, training=None, size=None):
        super().__init__()
        self.one, self.two = nn.Linear(64, 6), nn.Linear(6, classes)
        self.what, self.mode, self.size = what, training, size
    def forward(self, x):
        logits = self.two(torch.relu(self.one(x.flatten(1))))
        if self.mode in (None, self.training) and self.size in (None, len(x)):
            return self.what(logits)
        return logits
def _raise(error):
    raise error
def not_a_module(shape, classes): return {"a": 1}
def none(shape, classes): return None
def no_arguments(): return nn.Linear(1, 1)
def raises(shape, classes): _raise(ERROR)
def leaves(shape, classes): sys.exit(3)
def recurses(shape, classes): return recurses(shape, classes)
def forward_raises(shape, classes): return _Wrong(classes, lambda y: _raise(ERROR))
def training_raises(shape, classes): return _Wrong(classes, lambda y: _raise(ERROR), training=True)
def evaluation_raises(shape, classes): return _Wrong(classes, lambda y: _raise(ERROR), training=False)
def last_part_raises(shape, classes): return _Wrong(classes, lambda y: _raise(ERROR), training=False, size=1)
def tuple_in_training(shape, classes): return _Wrong(classes, lambda y: (y, y), training=True)
def wrong_classes(shape, classes): return _net(classes + 1)
def wrong_inputs(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(65, classes))
def squeezes(shape, classes): return _Wrong(classes, lambda y: y.squeeze())
def transposes(shape, classes): return _Wrong(classes, lambda y: y.T)
def sums(shape, classes): return _Wrong(classes, lambda y: y.sum())
def normalises(shape, classes): return _Wrong(classes, lambda y: y - y.mean(0), training=False)
def drops(shape, classes): return _Wrong(classes, lambda y: nn.functional.dropout(y, 0.5, True))
def nothing_to_remove(shape, classes): return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.AdaptiveAvgPool1d(classes))
def normed(shape, classes): return _net(classes, nn.BatchNorm1d(6))
def untracked(shape, classes): return _net(classes, nn.BatchNorm1d(6, track_running_stats=False))

x, y = np.random.default_rng(0).random((100, 1, 8, 8)), np.arange(100) % 10
def data_raises(): _raise(ERROR)
def data_none(): return None
def data_list(): return [x, y]
def data_no_train(): return {"test": (x, y)}
def data_other_split(): return {"train": (x, y), "dev": (x, y)}
def data_nan(): return {"train": (np.where(x > 0.9, np.nan, x), y)}
def data_infinite(): return {"train": (np.where(x > 0.9, np.inf, x), y)}
def data_few(): return {"train": (x[:2], y[:2])}
def data_empty(): return {"train": (x[:0], y[:0])}
def data_short(): return {"train": (x, y[:40])}
def data_negative(): return {"train": (x, y - 3)}
def data_real(): return {"train": (x, y + 0.5)}
def data_text(): return {"train": (x, [f"class {c}" for c in y])}
def data_shapes(): return {"train": (x, y), "test": (x[:, :, 1:], y)}
def data_scalars(): return {"train": (x[:, 0, 0, 0], y)}
def data_ragged(): return {"train": ([[1.0], [1.0, 2.0]], [0, 1])}
def data_objects(): return {"train": (np.array([object()] * 100), y)}

class NoClass: pass
class Abstract(GradientPruner):
    source = "mine"
    def __init__(self, needed): pass
class InMethod(GradientPruner):
    """Raises in its method `METHOD`."""
    source = "mine"
    space = space(sparsity=Domain("real", 0.5, "the share removed", low=0, high=1, open_high=True))
def _spoilt(self, *args, **named): _raise(ERROR)
setattr(InMethod, "METHOD", _spoilt)
class WrongState(GradientPruner):
    source = "mine"
    def start(self, task, members): return {}
class NoState(GradientPruner):
    source = "mine"
    def advance(self, task, state): return None
class NoNetworks(GradientPruner):
    source = "mine"
    def networks(self, task, state): return state
class NothingKept(GradientPruner):
    source = "mine"
    def networks(self, task, state):
        found = super().networks(task, state)
        found.kept.clear()
        return found
class KeepsNumbers(GradientPruner):
    source = "mine"
    def kept(self, params, pruning, ctx): return {"1.weight": params["1.weight"]}
class WrongShape(GradientPruner):
    source = "mine"
    def kept(self, params, pruning, ctx): return {"1.weight": params["1.weight"][0] > 0}
'''
"""A user's module; ERROR and METHOD are drawn."""

ERRORS = (
    'KeyError("x")', 'ValueError("no")', "ZeroDivisionError()", 'RuntimeError("first\\nsecond")', "AssertionError()",
    'TypeError("[red]x[/red]")', "NotImplementedError()", 'OSError(2, "No such file")', 'FileNotFoundError("a")',
    "StopIteration()",
    'UnicodeDecodeError("utf-8", b"a", 0, 1, "bad")', "MemoryError()", 'AttributeError("a")', "RecursionError()",
)  # fmt: skip
METHODS = ("skip", "parent", "check", "start", "begin", "advance", "networks", "init", "effective", "loss", "penalty",
           "after_step", "measured", "kept", "metrics", "before")  # fmt: skip
MODELS = tuple(
    "not_a_module none no_arguments raises leaves recurses forward_raises training_raises evaluation_raises last_part_raises "
    "tuple_in_training wrong_classes wrong_inputs squeezes transposes sums normalises drops nothing_to_remove untracked".split()
)
DATA = tuple(f"data_{name}" for name in (
    "raises none list no_train other_split nan infinite few empty short negative real text shapes scalars ragged "
    "objects".split()
))  # fmt: skip
ALGORITHMS = tuple(
    "NoClass Abstract InMethod WrongState NoState NoNetworks NothingKept KeepsNumbers WrongShape".split()
)


class Draft:
    """A study file in the making: lines of TOML by table, words of the command line, files beside
    it.
    """

    def __init__(self) -> None:
        self.study = {"name": '"s"', "seeds": "[0]"}
        self.task = {"epochs": "2", "rungs": "1", "widths": "[4]"}
        self.arm = {"algorithm": '"dense"'}
        self.more = ""
        self.content: bytes | None = None
        self.words = ["--out", "out"]
        self.files: dict[str, bytes] = {}
        self.error, self.method = ERRORS[0], METHODS[0]

    def text(self) -> bytes:
        """The study file."""
        if self.content is not None:
            return self.content
        lines = list[str]()
        for title, table in (("[study]", self.study), ("[task]", self.task), ("[[arm]]", self.arm)):
            lines += [title, *(f"{key} = {value}" for key, value in table.items())]
        return "\n".join([*lines, self.more]).encode()


Kind = Callable[[Draft, random.Random], None]
WRONG = (
    "true",
    '"x"',
    "[]",
    "[[1]]",
    "{ a = 1 }",
    "-1",
    "-0.5",
    "nan",
    "inf",
    "-inf",
    "1979-05-27",
    '""',
    "0x7fffffffffffffff",
)
"""Values, of which few are right for any key."""


def wrong_value_in_study(draft: Draft, draw: random.Random) -> None:
    """A value of another type, or out of range, in [study]."""
    wrong = {
        "name": ("3", '"a/b"', '".hidden"', '""', "true", '"a\\nb"'),
        "seeds": (
            '"0"',
            "[0.5]",
            "[]",
            "[0, 0]",
            "[-1]",
            "0",
            "[true]",
            "[9223372036854775808]",
            '["a"]',
        ),
        "keep": ("1", '"some"', "true", "[]"),
        "max_cohort": ("0", '"many"', "1.5", "-3", "true"),
        "cpus": ("0", "-1", "1.5", '"all"', "100000"),
        "gpus": ("-1", '"some"', "1.5", "1000"),
        "maximize": ('"accuracy_valid"', "[]", '["accuracy_test"]', '["acuracy_valid"]', "[3]"),
        "minimize": ('["flops"]', '["accuracy_test"]', "{}", '["flops_masked", "flops_masked"]'),
        "constraints": (
            '["flops_masked"]',
            '["flops_masked < x"]',
            '["nothing <= 3"]',
            '["accuracy_test >= 0.5"]',
            "[1]",
        ),
        "batch": ("0", "-1", "0.5", "true"),
        "rounds": ('"often"', "1"),
        "reduction_factor": ("1", "0", "-2", "nan", "inf", '"two"'),
        "floor": ("-1", "0.5", '"a"'),
        "controls": ('"all"', "true"),
        "limit": ("0", "-1", "nan", "inf", '"a"'),
    }
    key = draw.choice(sorted(wrong))
    draft.study[key] = draw.choice(wrong[key])


def wrong_value_in_task(draft: Draft, draw: random.Random) -> None:
    """A value of another type, or out of range, in [task]."""
    key = draw.choice(
        ("optimizer", "schedule", "dtype", "precision", "device", "stream", "epochs", "batch_size", "lr", "momentum", "weight_decay",
         "rungs", "dense_share", "split_seed", "augment", "dataset", "model", "widths")
    )  # fmt: skip
    allowed = {"widths": ("[]",), "augment": ("[]",), "split_seed": ("0x7fffffffffffffff",), "lr": ("0x7fffffffffffffff",),
               "weight_decay": ("0x7fffffffffffffff",), "epochs": ("0x7fffffffffffffff",)}  # fmt: skip
    draft.task[key] = draw.choice([value for value in WRONG if value not in allowed.get(key, ())])


def huge_value(draft: Draft, draw: random.Random) -> None:
    """A number that no machine has room for."""
    key, value = draw.choice(
        (("batch_size", "1_000_000_000_000"), ("widths", "[1_000_000_000_000]"), ("widths", "[9223372036854775807]"),
         ("widths", "[4, 100_000_000_000_000]"), ("rungs", "1_000_000_000"), ("lr", "1e400"), ("epochs", "1e400"),
         ("split_seed", "1" + "0" * 40), ("batch_size", "1" + "0" * 400), ("width", "1e300"))
    )  # fmt: skip
    draft.task[key] = value


def unknown_key(draft: Draft, draw: random.Random) -> None:
    """A key that no table has."""
    letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz_", k=draw.randint(2, 9)))
    key, place = f"x{letters}", draw.choice(("study", "task", "arm", "space", "top"))
    if place == "top":
        draft.more = f"[{key}]\na = 1"
    else:
        {"study": draft.study, "task": draft.task}.get(place, draft.arm)[
            f"space.{key}" if place == "space" else key
        ] = "1"


def something_missing(draft: Draft, draw: random.Random) -> None:
    """A key or a table that must be there is not."""
    what = draw.choice(
        ("name", "seeds", "algorithm", "arm", "study", "members", "root", "everything")
    )
    if what in ("name", "seeds"):
        del draft.study[what]
    elif what == "algorithm":
        draft.arm = {"name": '"a"'}
    elif what == "members":
        draft.arm |= {"sampler": '"random"', "space.lr": "{ low = 0.01, high = 0.1 }"}
    elif what == "root":
        draft.task["dataset"] = draw.choice(
            ('"idx"', '"npz"', '"folder"', '"torchvision"', '"parquet"')
        )
    else:
        parts = {
            "arm": b'[study]\nname = "s"\nseeds = [0]',
            "study": b'[[arm]]\nalgorithm = "dense"',
            "everything": b"",
        }
        draft.content = parts[what]


def bad_toml(draft: Draft, draw: random.Random) -> None:
    """A file that is no TOML in UTF-8."""
    text = draft.text()
    place = draw.randrange(len(text))
    line_end = text.index(b"\n", draw.randrange(len(text) - 30)) + 1
    draft.content = draw.choice(
        (text[:place] + b"\xff\xfe" + text[place:], text[:place] + b"\x00" + text[place:], text + b"\n[study]\nname = 1",
         text[:line_end] + b"= 3\n" + text[line_end:], text[:line_end] + b"[[\n" + text[line_end:],
         text.replace(b'"s"', b'"s'), text.replace(b"[task]", b"[task"), b"{" * 2000, b"a = " + b"[" * 3000,
         text.decode().encode("utf-16"))
    )  # fmt: skip


def bad_path_of_code(draft: Draft, draw: random.Random) -> None:
    """A dotted path that leads to no callable, or a name of ours misspelt."""
    table, key = draw.choice(
        ((draft.task, "model"), (draft.task, "dataset"), (draft.arm, "algorithm"))
    )
    path = draw.choice(("nowhere.f", ".f", "theirs.", "theirs..f", "theirs.number", "theirs.nope", "theirs/f", "os", "mlpp",
                        "dens", "digit", "théirs.f", "theirs.f.g", "broken.f", "raising.f", "leaving.f",
                        "..", " ", "a b.c"))  # fmt: skip
    if key != "algorithm" and path == "theirs.number" and draw.random() < 0.5:
        path = "math.pi"
    draft.files |= {
        "broken.py": b"def f(:",
        "raising.py": b"raise KeyError('x')",
        "leaving.py": b"import sys; sys.exit(0)",
    }
    table[key] = f'"{path}"'
    if key == "model":
        del draft.task["widths"]


def wrong_model(draft: Draft, draw: random.Random) -> None:
    """A model of a user's own that raises, gives the wrong shape, or depends on what it should not."""
    del draft.task["widths"]
    draft.error = draw.choice(ERRORS)
    draft.task["model"] = f'"theirs.{draw.choice(MODELS)}"'
    if "last_part" in draft.task["model"]:
        draft.error = "ValueError()"


def batch_of_one(draft: Draft, draw: random.Random) -> None:
    """Batch-norm over a batch of one example."""
    del draft.task["widths"]
    draft.task |= {"model": '"theirs.normed"', "batch_size": "1", "lr": str(draw.random())}


def wrong_data(draft: Draft, draw: random.Random) -> None:
    """A data set of a user's own that raises, or is none."""
    draft.error = draw.choice(ERRORS)
    draft.task |= {"dataset": f'"theirs.{draw.choice(DATA)}"', "batch_size": "8"}


def wrong_algorithm(draft: Draft, draw: random.Random) -> None:
    """An algorithm of a user's own that is none, raises, or gives networks that cannot be measured."""
    draft.error, draft.method = draw.choice(ERRORS), draw.choice(METHODS)
    draft.arm["algorithm"] = f'"theirs.{draw.choice(ALGORITHMS)}"'


def wrong_space(draft: Draft, draw: random.Random) -> None:
    """Hyper-parameters out of their domains, or ranges that are none."""
    name = draw.choice(
        (
            "chance",
            "dns",
            "magnitude",
            "weedout",
            "group_lasso",
            "complexity_aware",
            "cronos",
            "dense",
        )
    )
    space = algorithms.find(name).space
    draft.arm["algorithm"] = f'"{name}"'
    key = draw.choice(
        [key for key in sorted(space) if space[key].kind in ("real", "whole", "choice")]
    )
    wrong = ["[]", "nan", "inf", '"never"', "true", "[[1]]", "{ low = 3 }", "{ low = 2, high = 1 }", "{ low = 1, high = 1 }",
             "{ when = 3, values = [1] }", "{ when = {}, values = [1] }", "{ low = 1, high = 2, step = 1 }", "-inf",
             "{ values = [] }"]  # fmt: skip
    draft.arm[f"space.{key}"] = draw.choice(wrong)


def wrong_when(draft: Draft, draw: random.Random) -> None:
    """Conditions that nothing meets, or that go round in a circle."""
    draft.arm["algorithm"] = '"dns"'
    condition = draw.choice(
        (
            "{ nothing = 1 }",
            '{ scope = "sideways" }',
            '{ scope = "layerwise", gamma = 1 }',
            "{ power = 3 }",
            "[1]",
        )
    )
    draft.arm["space.scope"] = '["global"]'
    draft.arm["space.power"] = f"{{ values = [1, 2], when = {condition} }}"
    if draw.random() < 0.3:
        draft.arm |= {
            "space.power": "{ values = [1, 2], when = { gamma = 1 } }",
            "space.gamma": "{ values = [1], when = { power = 1 } }",
        }


def wrong_sampler(draft: Draft, draw: random.Random) -> None:
    """Samplers that are none, or lack what they need."""
    sampler = draw.choice(("grid", "random", "sobol", "tpe", "nsga2", "gp", "gird", "TPE", "1"))
    draft.arm["sampler"] = f'"{sampler}"'
    if sampler == "grid":
        key, value = draw.choice((("members", "3"), ("sampler_seed", "1"), ("space.lr", "{ low = 0.01, high = 0.1 }"),
                                  ("space.lr", "[-0.5, 0.5]")))  # fmt: skip
        draft.arm[key] = value
    else:
        draft.arm["members"] = draw.choice(("0", "-1", "1.5", '"a"', "100000000", "3"))
        if draft.arm["members"] != "3":
            draft.arm["space.lr"] = "{ low = 0.01, high = 0.1 }"


def duplicates(draft: Draft, draw: random.Random) -> None:
    """The same thing twice."""
    what = draw.choice(("arm", "value", "seed", "key", "augment"))
    if what == "arm":
        draft.more = '[[arm]]\nalgorithm = "dense"'
    elif what == "value":
        draft.arm["space.lr"] = "[0.1, 0.2, 0.1]"
    elif what == "seed":
        draft.study["seeds"] = "[1, 2, 1]"
    elif what == "key":
        draft.content = draft.text() + b'\nalgorithm = "dense"'
    else:
        draft.task["augment"] = '["flip", "flip"]'


def wrong_files(draft: Draft, draw: random.Random) -> None:
    """Data in files that are not there, or are none."""
    garbage = draw.choice(
        (b"", b"x", draw.randbytes(300), b"PK\x03\x04", b"PAR1", b"\x1f\x8b", b"\x93NUMPY\x01\x00")
    )
    draft.files["file"] = garbage
    place = draw.choice(("file", "nowhere", "nowhere/deep", ".", ""))
    dataset, key = draw.choice(
        (("idx", "root"), ("npz", "path"), ("folder", "root"), ("parquet", "train"))
    )
    draft.task |= {"dataset": f'"{dataset}"', key: draw.choice((f'"{place}"', "3", "[]"))}


def wrong_command(draft: Draft, draw: random.Random) -> None:
    """What is said beside the study file is wrong."""
    draft.files["file"] = b""
    draft.words += draw.choice(
        (["--set", "lr=1"], ["--set", "study.seeds"], ["--set", "task.lr=-1"], ["--set", "arm.name=1"], ["--max-cohort", "0"],
         ["--out", "file"], ["--out", "file/out"], ["--out", "/proc/out"], ["--out", "o" * 300], ["--out", "ftp://host/x"],
         ["--set", "study.nothing=1"], ["--set", "task.epochs="], ["--insecure"], ["--set", "study.seeds=[[]]"])
    )  # fmt: skip


def things_that_do_not_fit(draft: Draft, draw: random.Random) -> None:
    """Each value is right, and together they are not."""
    what = draw.randrange(7)
    if what == 0:
        draft.task["rungs"] = str(draw.randint(500, 10**6))
    elif what == 1:
        draft.task["batch_size"] = str(draw.randint(2000, 10**6))
    elif what == 2:
        draft.task["dense_share"] = "0.9999"
    elif what == 3:
        draft.task |= {"model": '"lenet5"'}
        del draft.task["widths"]
    elif what == 4:
        draft.task["widths"] = "[]"
        draft.arm |= {
            "algorithm": draw.choice(
                ('"group_lasso"', '"l1_filters"', '"scratch"', '"complexity_aware"')
            )
        }
    elif what == 5:
        draft.study |= {"controls": '"standard"', "keep": '"none"'}
    else:
        draft.arm |= {"algorithm": '"dns"', "space.c": "[1.0, 2.0, 3.0]"}


KINDS: tuple[Kind, ...] = (
    wrong_value_in_study, wrong_value_in_task, huge_value, unknown_key, something_missing, bad_toml, bad_path_of_code,
    wrong_model, wrong_model, batch_of_one, wrong_data, wrong_algorithm, wrong_algorithm, wrong_space, wrong_when,
    wrong_sampler, duplicates, wrong_files, wrong_command, things_that_do_not_fit,
)  # fmt: skip


class RayStartedError(BaseException):
    """Passes through all that takes exceptions for somebody's fault."""


def _never(*_: object, **__: object) -> None:
    raise RayStartedError


@contextlib.contextmanager
def _workplace(draft: Draft) -> Iterator[list[str]]:
    """An empty working folder with the draft's files; gives the words of the command."""
    path, place = list(sys.path), os.getcwd()
    with tempfile.TemporaryDirectory(prefix="malformed-") as folder:
        module = MODULE.replace("ERROR", draft.error).replace('"METHOD"', f'"{draft.method}"')
        Path(folder, "theirs.py").write_text(module)
        for name, content in draft.files.items():
            Path(folder, name).write_bytes(content)
        Path(folder, "study.toml").write_bytes(draft.text())
        os.chdir(folder)
        splits._load.cache_clear()  # its key is a path, which is another one in each folder
        algorithms.find.cache_clear()
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            yield ["prunefront", "run", "study.toml", *draft.words]
        finally:
            os.chdir(place)
            sys.path[:] = path
            sys.dont_write_bytecode = bytecode
            for name in ("theirs", "broken", "raising", "leaving"):
                sys.modules.pop(name, None)
            splits._load.cache_clear()
            algorithms.find.cache_clear()


def fault(draft: Draft) -> str | None:
    """What is wrong with how a malformed study ends, or None if it ends as it should."""
    printed, said = io.StringIO(), io.StringIO()
    code: Any = 0
    with _workplace(draft) as words, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", words))
        stack.enter_context(mock.patch.object(handout, "train", _never))
        stack.enter_context(mock.patch.object(cluster.ray, "init", _never))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(said))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        except RayStartedError:
            return "Ray was started"
        except BaseException:
            return f"passed through: {traceback.format_exc()}"
    text = said.getvalue()
    if code != BAD_INPUT:
        return f"exit {code}: {text[-2000:]}"
    if "Traceback" in text or len(text.splitlines()) != 1 or not text.startswith("prunefront: "):
        return f"not one sentence: {text[-2000:]}"
    return None


def drawn(seed: int) -> tuple[str, Draft]:
    """The malformed study of a seed, and the kind of its mistake."""
    draw = random.Random(seed)
    kind, draft = draw.choice(KINDS), Draft()
    kind(draft, draw)
    return kind.__name__.replace("_", " "), draft


def main() -> None:
    """Draw, run, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    totals, failed = Counter[str](), Counter[str]()
    for seed in range(asked.seed, asked.seed + asked.count):
        kind, draft = drawn(seed)
        totals[kind] += 1
        if (why := fault(draft)) is not None:
            failed[kind] += 1
            print(
                f"--- {seed}, {kind}: {why}\n{draft.text()[:1500]!r} {draft.words} {draft.error} {draft.method}",
                flush=True,
            )
    print(f"{'mistake':32} studies  not as they should")
    for kind in sorted(totals):
        print(f"{kind:32} {totals[kind]:7}  {failed[kind]:7}")
    print(f"{'all':32} {sum(totals.values()):7}  {sum(failed.values()):7}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
