"""What is wrong outside the study file: data, model, machine, folder. One sentence, exit code 2,
before Ray starts.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import malformed_studies
from prunefront.search import LONGEST_TEMPORARY, cli
from prunefront.search.drive import cluster, handout
from prunefront.search.drive.lock import locked
from prunefront.trainables.data import splits

STUDY = '[study]\nname = "s"\nseeds = [0]\n[task]\nepochs = 2\nrungs = 1\nwidths = [4]\n'
DENSE = '[[arm]]\nalgorithm = "dense"\n'

THEIRS = '''
"""Models and data sets of a user, most of them wrong."""
import numpy as np
import torch
from torch import nn

number = 3
def no_module(shape, classes): return 3
def no_arguments(): return nn.Linear(1, 1)
def raises(shape, classes): raise KeyError("first\\nsecond")
def refuses(shape, classes): raise ValueError("first\\nsecond")
def deep(shape, classes, depth): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
def takes_seven(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))
def gives_three(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
def lazy(shape, classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
class Pair(nn.Linear):
    def __init__(self, shape, classes): super().__init__(64, classes)
    def forward(self, x): return super().forward(x.flatten(1)), x
class Fails(Pair):
    def forward(self, x): raise AttributeError("nothing here")
class Bare(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, classes))
    def forward(self, x): return x.flatten(1) @ self.weight

x, y = np.random.default_rng(0).random((100, 1, 8, 8)), np.arange(100) % 10
def nothing(): return None
def vectors(): return {"train": (x.reshape(100, 64), y)}
def no_train(): return {"test": (x, y)}
def misspelt(): return {"train": (x, y), "val": (x, y)}
def no_labels(): return {"train": x}
def text_inputs(): return {"train": (np.array([["a"]] * 100), y)}
def numbers(): return {"train": (x[:, 0, 0, 0], y)}
def fewer_labels(): return {"train": (x, y[:50])}
def below_zero(): return {"train": (x, y - 1)}
def real_labels(): return {"train": (x, y / 2)}
def text_labels(): return {"train": (x, [str(label) for label in y])}
def not_finite(): return {"train": (x * np.nan, y)}
def two_shapes(): return {"train": (x, y), "test": (x[:, :, :4], y)}
def two_examples(): return {"train": (x[:2], y[:2])}
def divides(): return 1 / 0
'''

TASKS: tuple[tuple[str, str], ...] = (
    ("batch_size = 5000", "`batch_size` is at most the number of training examples, 1222; got 5000"),
    ("rungs = 500", "`rungs` is at most the number of steps after the dense phase, 46; got 500"),
    ('augment = ["flop"]', "`augment` is a list of distinct words out of crop, flip; got ['flop']"),
    ('augment = ["flip"]\ndataset = "theirs.vectors"',
     "`augment` is for images, (channels, height, width); got inputs of shape (64,)"),
    ('stream = "often"', "`stream` is where inputs are kept: one of auto, always, never; got 'often'"),
    ('compile = "yes"', "`compile` is true, false or \"auto\": whether steps are compiled; got 'yes'"),
    ("compile = [true, false]", '`compile` is true, false or "auto": whether steps are compiled; got [True, False]'),
    ("together = 1.5", '`together` is how many members are trained in one program: a whole number, 0 for all of a cohort, or "auto"; got 1.5'),
    ('dataset = "idx"', "`root` is missing: dataset idx needs it"),
    ('dataset = "idx"\nroot = "nowhere"', "dataset idx: no folder nowhere"),
    ("dense_share = 0.999", "`rungs` is at most the number of steps after the dense phase, 0; got 1"),
    ("widths = 3", "model mlp: `widths` is a list of whole numbers above 0; got 3"),
    ("widths = [true]", "model mlp: `widths` is a list of whole numbers above 0; got [True]"),
    ("widths = [0x100000000000]", "it raised RuntimeError: "),
    ('model = "lenet5"', "model lenet5: it needs images (channels, height, width) of at least 16 x 16; got (1, 8, 8)"),
    ('model = "theirs.number"', "model theirs.number: a model is a callable; got int"),
    ('model = "theirs.nope"', "model theirs.nope: cannot be imported (AttributeError: "),
    ('model = "theirs_broken.f"', "model theirs_broken.f: cannot be imported (SyntaxError: "),
    ('model = "theirs_raises.f"',
     "model theirs_raises.f: cannot be imported (ZeroDivisionError: division by zero (theirs_raises.py, line 1))"),
    ('model = "theirs.no_module"', "model theirs.no_module: a model returns an nn.Module; got int"),
    ('model = "theirs.no_arguments"', "model theirs.no_arguments: called with ((1, 8, 8), 10) it raised TypeError: "),
    ('model = "theirs.raises"',
     "model theirs.raises: called with ((1, 8, 8), 10) it raised KeyError: 'first\\nsecond' (theirs.py, line 10)"),
    ('model = "theirs.refuses"',
     "model theirs.refuses: called with ((1, 8, 8), 10) it raised ValueError: first ... (theirs.py, line 11)"),
    ('model = "theirs.deep"', "`depth` is missing: model theirs.deep needs it"),
    ('model = "theirs.deep"\ndepht = 3',
     "`depht` is no key of a task with dataset digits and model theirs.deep; did you mean \"depth\"?"),
    ('model = "theirs.takes_seven"',
     "model theirs.takes_seven: takes inputs of shape (1, 8, 8); it raised RuntimeError: mat1 and mat2"),
    ('model = "theirs.gives_three"', "gives two examples logits of shape (2, 10); got (2, 3)"),
    ('model = "theirs.lazy"',
     "model theirs.lazy: is returned with all its parameters made: call a lazy module once before; got"),
    ('model = "theirs.Pair"', "gives two examples logits of shape (2, 10); got tuple"),
    ('model = "theirs.Fails"', "takes inputs of shape (1, 8, 8); it raised AttributeError: nothing here (theirs.py, line 20)"),
    ('model = "theirs.Bare"', "model theirs.Bare: has removable layers (linear or convolution); got none"),
    ('dataset = "theirs.nothing"', "is a mapping with a split `train`, and perhaps `valid` and `test`; got NoneType"),
    ('dataset = "theirs.no_train"', "is a mapping with a split `train`, and perhaps `valid` and `test`; got ['test']"),
    ('dataset = "theirs.misspelt"', "is a mapping with a split `train`, and perhaps `valid` and `test`; got ['train', 'val']"),
    ('dataset = "theirs.no_labels"',
     "dataset theirs.no_labels: split train: is a pair, inputs and labels, that become NumPy arrays; got ValueError: too many"),
    ('dataset = "theirs.text_inputs"', "inputs are numbers (n, ...) of at most 64 bits; got <U1 (100, 1); make them numbers"),
    ('dataset = "theirs.numbers"', "split train: inputs are numbers (n, ...); got float64 (100,)"),
    ('dataset = "theirs.fewer_labels"', "split train: has one label for each input; got (50,) for (100, 1, 8, 8)"),
    ('dataset = "theirs.below_zero"', "split train: labels are whole numbers from 0; got -1"),
    ('dataset = "theirs.real_labels"', "split train: labels are whole numbers from 0; got float64 [0.0, 0.5, 1.0]"),
    ('dataset = "theirs.text_labels"', "split train: labels are whole numbers from 0; got <U1 ['0', '1', '2']"),
    ('dataset = "theirs.not_finite"', "got nan (row 0 at (0, 0, 0), and 6,399 more like it); if it stands for a missing value"),
    ('dataset = "theirs.two_shapes"', "inputs of all splits have one shape; got {'train': (1, 8, 8), 'test': (1, 4, 8)}"),
    ('dataset = "theirs.two_examples"', "has a split `test`, or enough examples in `train` to carve it out"),
    ('dataset = "theirs.divides"',
     "dataset theirs.divides: called with () it raised ZeroDivisionError: division by zero (theirs.py, line 42)"),
)  # fmt: skip

Refusal = Callable[..., str]


class RayStartedError(BaseException):
    """Passes through all that takes exceptions for somebody's fault."""


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refusal]:
    """Runs a command line in an empty folder and returns its sentence, checked to be all that
    happened.
    """
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "theirs_broken.py").write_text("def f(:")
    (tmp_path / "theirs_raises.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    splits._load.cache_clear()  # its key is a path, and the working folder is another one in each test

    def never(*_: object, **__: object) -> None:
        raise RayStartedError

    monkeypatch.setattr(handout, "train", never)
    monkeypatch.setattr(cluster.ray, "init", never)

    def command(*words: object) -> str:
        before = found(tmp_path)
        monkeypatch.setattr(sys, "argv", ["prunefront", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed
        assert printed.out == ""
        assert printed.err.startswith("prunefront: ")
        assert len(printed.err.splitlines()) == 1
        assert found(tmp_path) - before <= {"out", "out/lock"}
        return printed.err.removeprefix("prunefront: ").removesuffix("\n")

    yield command
    splits._load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


def found(folder: Path) -> set[str]:
    """All that lies in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def study(task: str = "", arms: str = DENSE) -> str:
    """A study file with `task` in its table [task], in the working folder; keys that `task` names
    stand for themselves.
    """
    named = {line.split(" =")[0] for line in task.splitlines()} | (
        {"widths"} if "model" in task else set()
    )
    plain = [line for line in STUDY.splitlines() if line.split(" =")[0] not in named]
    Path("study.toml").write_text("\n".join([*plain, task, arms]))
    return "study.toml"


@pytest.mark.parametrize(("task", "sentence"), TASKS)
def test_task(refused: Refusal, task: str, sentence: str) -> None:
    said = refused("run", study(task), "--out", "out")
    assert said.startswith("study.toml: [task]: ")
    assert sentence in said


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        (
            "space.c = [1.0]",
            'arm "dns": `c` has one number for each of the model\'s 2 removable layers; got 1',
        ),
        (
            "space.c = [[1, 2], [1, 2, 3]]",
            'arm "dns": `c` has one number for each of the model\'s 2 removable layers; got 3',
        ),
    ],
)
def test_hyper_parameters_that_do_not_fit_the_model(
    refused: Refusal, arm: str, sentence: str
) -> None:
    text = study(arms='[[arm]]\nalgorithm = "dns"\n' + arm)
    assert refused("run", text, "--out", "out") == f"study.toml: {sentence}"


def test_a_model_without_units_to_remove(refused: Refusal) -> None:
    text = study("widths = []", '[[arm]]\nalgorithm = "chance"\nspace.granularity = "node"')
    said = refused("run", text, "--out", "out")
    assert said.startswith(
        'study.toml: arm "chance": `granularity` node: it needs hidden units whose readers are all known'
    )


def test_steps_that_are_to_be_compiled_without_a_compiler(
    refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    assert refused("run", study("compile = true"), "--out", "out") == (
        "study.toml: [task]: `compile` true needs a C++ compiler (/nonexistent), which is not found; "
        '"auto" compiles where that is possible and pays'
    )


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_precision_in_which_nothing_can_be_solved(refused: Refusal, precision: str) -> None:
    text = study(f'precision = "{precision}"', DENSE + '[[arm]]\nalgorithm = "cronos"\n')
    assert refused("run", text, "--out", "out") == (
        'study.toml: arm "cronos": `precision` is float64 or float32 for a convex program, which is '
        f"solved for and not trained: linear systems need its digits; got {precision}"
    )


def test_more_than_the_machine_has(refused: Refusal) -> None:
    assert "[study]: `cpus` is at most the " in refused(
        "run", study(), "--out", "out", "--set", "study.cpus=100000"
    )
    assert "[study]: `gpus` is at most the " in refused(
        "run", study(), "--out", "out", "--set", "study.gpus=1000"
    )


def test_no_gpu(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = refused("run", study('device = "cuda"'), "--out", "out")
    assert said == "study.toml: [task]: `device` cuda is a GPU that torch can use; got none"


def test_mistakes_in_the_file_and_on_the_command_line(refused: Refusal) -> None:
    assert refused("run", "no.toml") == "no.toml: no such file"
    assert refused("run", study("lr = -1")).startswith(
        "study.toml: [task]: `lr` is the learning rate"
    )
    assert refused("run", study(), "--max-cohort", "0").endswith(
        'a whole number from 1, or "auto"; got 0'
    )
    assert refused("doctor", "--data", "nowhere") == "--data: is a folder; got nowhere"
    assert refused("run", study(), "--set", "lr=1").startswith(
        "study.toml: --set takes study.KEY=VALUE"
    )


def pngs(count: int = 60) -> tuple[list[bytes | None], list[int]]:
    """scikit-learn's digits as encoded images, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return [png(image) for image in np.asarray(images)[:count].reshape(-1, 8, 8) * 15], np.asarray(
        labels
    )[:count].tolist()


def png(pixels: np.ndarray) -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def parquet(
    images: Sequence[bytes | None],
    labels: Sequence[object],
    field: str = "bytes",
    column: str = "image",
) -> None:
    """data.parquet in the working folder, in the layout of Hugging Face."""
    kind = pa.struct([(field, pa.binary())])
    pq.write_table(
        pa.table({column: pa.array([{field: i} for i in images], kind), "label": labels}),
        "data.parquet",
    )


PARQUET = 'dataset = "parquet"\ntrain = "data.parquet"\nbatch_size = 8'
COLUMNS = (
    "data.parquet: a Parquet file has the columns `image`, with a field `bytes`, and `label`; got"
)


def test_a_sound_parquet_file_is_read(refused: Refusal) -> None:
    parquet(*pngs())
    with pytest.raises(RayStartedError):
        refused("run", study(PARQUET), "--out", "out")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([-1] * 60, "got -1"),
        ([0.5] * 60, "got float64 [0.5, 0.5, 0.5]"),
        (["a"] * 60, "got object ['a', 'a', 'a']"),
        ([None] + [1] * 59, "got float64 [nan, 1.0, 1.0]"),
    ],
)
def test_labels_in_parquet(refused: Refusal, labels: list[object], sentence: str) -> None:
    parquet(pngs()[0], labels)
    said = refused("run", study(PARQUET), "--out", "out")
    assert (
        said
        == f"study.toml: [task]: dataset parquet: split train: labels are whole numbers from 0; {sentence}"
    )


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (b"hello", "row 59 of `image`: not an image that can be decoded"),
        (None, "row 59 of `image`: not an image that can be decoded"),
        (png(np.zeros((8, 8)))[:-30], "row 59 of `image`: not an image that can be decoded"),
        (png(np.zeros((9, 8))), "images have one shape; got (1, 8, 8), (1, 9, 8)"),
        (png(np.zeros((8, 8, 3))), "images have one shape; got (1, 8, 8), (3, 8, 8)"),
    ],
    ids=["text", "missing", "cut off", "higher", "in colour"],
)
def test_images_in_parquet(refused: Refusal, last: bytes | None, sentence: str) -> None:
    images, labels = pngs()
    parquet([*images[:-1], last], labels)
    said = refused("run", study(PARQUET), "--out", "out")
    assert said == f"study.toml: [task]: dataset parquet: data.parquet: {sentence}"


def test_parquet_files(refused: Refusal) -> None:
    images, labels = pngs()

    def said(more: str = "") -> str:
        return refused("run", study(PARQUET + more), "--out", "out").removeprefix(
            "study.toml: [task]: "
        )

    assert said() == "dataset parquet: no file data.parquet"
    Path("data.parquet").write_text("no Parquet file, but long enough")
    assert said().startswith(f"dataset parquet: {COLUMNS}: Could not open Parquet input source")
    parquet(images, labels, column="picture")
    assert said().startswith(f"dataset parquet: {COLUMNS}: No match for FieldRef.Name(image)")
    parquet(images, labels, field="data")
    assert said() == f"dataset parquet: {COLUMNS} `image` of type struct<data: binary>"
    pq.write_table(pa.table({"image": images, "label": labels}), "data.parquet")
    assert said() == f"dataset parquet: {COLUMNS} `image` of type binary"
    parquet([], pa.array([], pa.int64()))
    assert said() == "dataset parquet: data.parquet: images have one shape; got no images"
    assert said('\ntest = "no.parquet"').endswith("images have one shape; got no images")
    assert said('\nimages = "x"').startswith(
        '`images` is no key of a task with dataset parquet and model mlp; did you mean "image"?'
    )
    parquet(images, labels)
    assert said('\ntest = "no.parquet"') == "dataset parquet: no file no.parquet"
    assert said("\nimage = 3") == "dataset parquet: `image` is text; got 3"


FULL = "the output folder can be written to and has 1 MB free; got: "


def test_output_folders_that_cannot_be(refused: Refusal) -> None:
    Path("file").touch()
    assert refused("run", study(), "--out", "file") == f"file: {FULL}File exists"
    assert refused("run", study(), "--out", "file/out") == f"file/out: {FULL}Not a directory"
    assert (
        refused("run", study(), "--out", "/proc/out")
        == f"/proc/out: {FULL}No such file or directory"
    )
    assert refused("run", study(), "--out", "o" * 300).endswith(f"{FULL}File name too long")


def test_full_and_read_only_folders(refused: Refusal, tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "small")]
    (tmp_path / "small").mkdir()
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs rights that this user lacks")
    try:
        (tmp_path / "small" / "out").mkdir()
        assert (
            refused("run", study(), "--out", "small/out")
            == f"small/out: {FULL}No space left on device"
        )
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "small")], check=True)
        assert (
            refused("run", study(), "--out", "small/out")
            == f"small/out: {FULL}Read-only file system"
        )
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_a_second_driver(refused: Refusal, tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        said = refused("run", study(), "--out", "out")
    assert said == "out: one run at a time writes to an output folder; another one does now"


def test_a_temporary_folder_too_long_for_the_sockets_of_ray(
    refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = "/tmp/".ljust(LONGEST_TEMPORARY + 1, "a")
    monkeypatch.setattr("tempfile.tempdir", folder)
    Path(folder).mkdir(exist_ok=True)
    rule = f"{folder}: the temporary folder has a path of at most {LONGEST_TEMPORARY} bytes, for Ray's sockets below it"
    try:
        said = refused("run", study(), "--out", "out")
    finally:
        Path(folder).rmdir()
    assert said == f"{rule}; got {LONGEST_TEMPORARY + 1}; set TMPDIR to a shorter one, such as /tmp"


def test_another_study_or_task_in_the_folder(refused: Refusal) -> None:
    with pytest.raises(RayStartedError):
        refused("run", study(), "--out", "out")
    Path("out/rows").mkdir()
    Path("out/rows/00000-1.parquet").touch()
    name = "study.name='t'"
    assert (
        refused("run", study(), "--out", "out", "--set", name)
        == 'out: holds the study "s"; got "t"; give it another --out'
    )
    rule = "out: was begun with another task, and its rows would not compare"
    said = refused("run", study("epochs = 3"), "--out", "out")
    assert said == f"{rule}: `epochs` was 2.0; got 3.0; give it another --out"
    said = refused("run", study("widths = [5]"), "--out", "out")
    assert said == f"{rule}: `widths` was [4]; got [5]; give it another --out"


def test_a_folder_without_rows_refuses_nothing(refused: Refusal) -> None:
    for task in ("", "epochs = 3", "widths = [5]", "dense_share = 0.0"):
        with pytest.raises(RayStartedError):
            refused("run", study(task), "--out", "out")
    with pytest.raises(RayStartedError):
        refused("run", study(), "--out", "out", "--set", "study.name='t'")
    assert json.loads(Path("out/plan/study.json").read_text())["name"] == "t"
    assert len(list(Path("out/plan").glob("cohorts-*.jsonl"))) == 1


def test_no_dense_phase(refused: Refusal) -> None:
    """Of an algorithm that would start from one."""
    with pytest.raises(RayStartedError):
        refused(
            "run", study("dense_share = 0.0", '[[arm]]\nalgorithm = "magnitude"'), "--out", "out"
        )


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_malformed_studies_drawn_at_random(seed: int) -> None:
    """Ten of those that `benchmarks/malformed_studies.py` draws, from a seed on."""
    for each in range(seed, seed + 10):
        kind, draft = malformed_studies.drawn(each)
        assert malformed_studies.fault(draft) is None, (each, kind, draft.text())


def test_reports_of_nothing(refused: Refusal) -> None:
    Path("empty").mkdir()
    assert refused("report", "nowhere").startswith("nowhere: no ")
    assert refused("report", "ftp://host/x").startswith(
        "ftp://host: a location is a path or a URI that pyarrow.fs knows"
    )
    assert (
        refused("report", "empty")
        == "empty: no rows; a study's output folder has them in rows/*.parquet"
    )
