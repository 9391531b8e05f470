"""Study files, good and bad: what is read, and the one sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunefront.search.study.parse import read
from prunefront.search.study.schema import Span, Study
from prunefront.trainables.task import Task

STUDY = '[study]\nname = "s"\nseeds = [0, 1]\n'
TASK = "[task]\nwidths = [8]\n"
DENSE = '[[arm]]\nalgorithm = "dense"\n'
DNS = STUDY + TASK + '[[arm]]\nalgorithm = "dns"\n'
RANDOM = DNS + 'sampler = "random"\nmembers = 4\n'
MAGNITUDE = STUDY + TASK + '[[arm]]\nalgorithm = "magnitude"\n'

SEEDS = "[study]: `seeds` is a list of distinct whole numbers from 0"
RANGE = "`sparsity` has a range of low, high and, if need be, log = true or false; got"
SHARE = 'arm "dns": `sparsity` is the share removed at the end: a number in [0, 1); got'
LIST = "a list of numbers in (-inf, inf), one for each layer; got"
MANY = "".join(f"space.{name} = {list(range(101))}\n" for name in ("gamma", "power", "lr"))
TABLES = "`arm` is a list of tables, [[arm]], at least one"


def study(keys: str) -> str:
    """A study whose table [study] holds `keys` beside what it must."""
    return STUDY + keys + "\n" + TASK + DENSE


def seeds(value: str) -> str:
    """A study with these seeds."""
    return f'[study]\nname = "s"\nseeds = {value}\n' + DENSE


def named(value: str) -> str:
    """A study with this name."""
    return f"[study]\nname = {value}\nseeds = [0]\n" + DENSE


def task(keys: str) -> str:
    """A study whose table [task] holds `keys`."""
    return STUDY + "[task]\n" + keys + "\n" + DENSE


BAD: tuple[tuple[str, str, str], ...] = (
    ("empty file", "", "`study` is missing: a table, [study], with a name and seeds"),
    ("not TOML", "[study\n", "a study file is TOML in UTF-8; got: "),
    ("nested too deep", "a=" + "[" * 100_000, "a study file is TOML in UTF-8; got: "),
    ("a date", task("lr = 2020-01-01"), "no key of a study is a date"),
    ("study is a number", "study = 3\n" + DENSE, "`study` is a table, [study], with a name and seeds; got 3"),
    ("study is a list", "[[study]]\n" + DENSE, "`study` is a table, [study], with a name and seeds; got [{}]"),
    ("unknown table", study("") + "[tasks]\n", '`tasks` is no key here; did you mean "task"? known: study, task, arm'),
    ("no name", "[study]\nseeds = [0]\n" + DENSE, "[study]: `name` is missing: a name for a folder"),
    ("empty name", named('""'), "[study]: `name` is a name for a folder: one line, no slashes, no dot in front; got ''"),
    ("name with a slash", named('"a/b"'), "no slashes, no dot in front; got 'a/b'"),
    ("name of another folder", named('".."'), "no slashes, no dot in front; got '..'"),
    ("name of two lines", named('"a\\nb"'), "no slashes, no dot in front; got 'a\\nb'"),
    ("name is a number", named("3"), "no slashes, no dot in front; got 3"),
    ("no seeds key", '[study]\nname = "s"\n' + DENSE, "[study]: `seeds` is missing: a list of"),
    ("no seeds", seeds("[]"), f"{SEEDS}, below 2^63; got []"),
    ("seeds twice", seeds("[1, 1]"), f"{SEEDS}, below 2^63; got [1, 1]"),
    ("seed below 0", seeds("[-1]"), f"{SEEDS}, below 2^63; got -1"),
    ("seed too large", seeds("[9223372036854775808]"), f"{SEEDS}, below 2^63; got 9223372036854775808"),
    ("seed as text", seeds('["1"]'), f"{SEEDS}, below 2^63; got '1'"),
    ("seed as truth", seeds("[true]"), f"{SEEDS}, below 2^63; got True"),
    ("seed with a point", seeds("[1.0]"), f"{SEEDS}, below 2^63; got 1.0"),
    ("one seed", seeds("3"), f"{SEEDS}, below 2^63; got 3"),
    ("seeds as a table", seeds("{a = 1}"), f"{SEEDS}, below 2^63; got {{'a': 1}}"),
    ("keep", study('keep = "some"'), "[study]: `keep` is which networks are kept: all, front or none; got 'some'"),
    ("cohort of none", study("max_cohort = 0"),
     '`max_cohort` is the most members of a cohort: a whole number from 1, or "auto"; '),
    ("cohort as truth", study("max_cohort = true"), '`max_cohort` is the most members of a cohort: a whole number from 1, or '),
    ("no CPUs", study("cpus = 0"), "[study]: `cpus` is the CPUs of a cohort: a whole number from 1; got 0"),
    ("GPUs below 0", study("gpus = -1"), "[study]: `gpus` is the GPUs of a cohort: "),
    ("one GPU and a half", study("gpus = 1.5"), 'a whole number, a share of one below 1, or "auto"; got 1.5'),
    ("GPUs not a number", study("gpus = nan"), 'a whole number, a share of one below 1, or "auto"; got nan'),
    ("typo in [study]", study("sedes = 1"), '[study]: `sedes` is no key here; did you mean "seeds"? known: name, seeds, keep'),
    ("task is a number", "task = 3\n" + STUDY + DENSE, "`task` is a table, [task]; got 3"),
    ("task is a list", STUDY + "[[task]]\n" + DENSE, "`task` is a table, [task]; got [{}]"),
    ("typo in [task]", task("epoch = 3"),
     '[task]: `epoch` is no key of a task with dataset digits and model mlp; did you mean "epochs"?'),
    ("lr as text", task('lr = "fast"'), "[task]: `lr` is the learning rate: a number in [0, inf); got 'fast'"),
    ("lr below 0", task("lr = -0.1"), "[task]: `lr` is the learning rate: a number in [0, inf); got -0.1"),
    ("lr as truth", task("lr = true"), "[task]: `lr` is the learning rate: a number in [0, inf); got True"),
    ("lr not a number", task("lr = nan"), "[task]: `lr` is the learning rate: a number in [0, inf); got nan"),
    ("lr as a table", task("lr.a = 1"), "[task]: `lr` is the learning rate: a number in [0, inf); got {'a': 1}"),
    ("no epochs", task("epochs = 0"), "[task]: `epochs` is the training budget and lies above 0; got 0"),
    ("endless", task("epochs = inf"),
     "`epochs` is the training budget in passes over the training data: a number in [0, inf); got inf"),
    ("half an example", task("batch_size = 1.5"),
     "`batch_size` is the number of examples in a step: a whole number in [1, inf); got 1.5"),
    ("no rungs", task("rungs = 0"), "[task]: `rungs` is the number of measurements: a whole number in [1, inf); got 0"),
    ("all dense", task("dense_share = 1"),
     "`dense_share` is the share of the budget for a dense phase: a number in [0, 1); got 1"),
    ("huge seed", task("split_seed = 0xffffffffffffffffff"),
     "`split_seed` is the seed of the splits: a whole number in [0, inf); got 4722"),
    ("optimizer", task('optimizer = "adamw"'),
     "[task]: `optimizer` is the optimiser: one of sgd, adam, dadapt_adam, dadapt_adamw; got 'adamw'"),
    ("schedule", task("schedule = 3"), "`schedule` is the learning rate's course: one of auto, constant, cosine, inverse, linear; got 3"),
    ("dtype", task('dtype = "float16"'), "`dtype` is the type of parameters: one of float32, float64; got 'float16'"),
    ("precision", task('precision = "float16"'),
     "[task]: `precision` is what training computes in: one of float64, float32, tf32, bf16; got 'float16'"),
    ("precision and dtype", task('precision = "bf16"\ndtype = "float64"'),
     "[task]: `precision` is given alone, or with the `dtype` that its parameters have; got bf16 and float64"),
    ("device", task('device = "gpu"'), "`device` is where members train: one of auto, cpu, cuda; got 'gpu'"),
    ("dataset is a number", task("dataset = 3"), "[task]: `dataset` is a name or a dotted path; got 3"),
    ("unknown dataset", task('dataset = "digit"'),
     '[task]: no dataset "digit"; did you mean "digits"? known: digits, features, folder, idx, npz, parquet, torchvision'),
    ("unknown model", task('model = "lenet"'),
     '[task]: no model "lenet"; did you mean "lenet5"? known: mlp, residual_mlp, lenet5, resnet, resnet20, '),
    ("no such module", task('model = "no.such"'),
     "[task]: model no.such: cannot be imported (ModuleNotFoundError: No module named 'no')"),
    ("no such name", task('model = "math.nope"'), "[task]: model math.nope: cannot be imported (AttributeError: "),
    ("no module name", task('model = ".x"'), "[task]: model .x: cannot be imported (ValueError: "),
    ("not callable", task('model = "math.pi"'), "[task]: model math.pi: a model is a callable; got float"),
    ("the other model's", task('model = "lenet5"\nwidths = [3]'),
     "`widths` is no key of a task with dataset digits and model lenet5;"),
    ("options as one key", task("model_options.widths = [3]"), "`model_options` is no key of a task with"),
    ("needed option", task('dataset = "parquet"'), "[task]: `train` is missing: dataset parquet needs it"),
    ("no arm", STUDY + TASK, f"{TABLES.replace('is', 'is missing:', 1)}"),
    ("empty list of arms", "arm = []\n" + STUDY, f"{TABLES}; got []"),
    ("arm is a table", STUDY + '[arm]\nalgorithm = "dense"', f"{TABLES}; got {{'algorithm': 'dense'}}"),
    ("arm is a number", "arm = [3]\n" + STUDY, f"{TABLES}; got 3"),
    ("arms", STUDY + '[[arms]]\nalgorithm = "dense"', '`arms` is no key here; did you mean "arm"?'),
    ("no algorithm", STUDY + "[[arm]]", "arm 1: `algorithm` is missing: the name of an algorithm"),
    ("algorithm misspelt", STUDY + '[[arm]]\nalgoritm = "dns"', 'arm 1: `algoritm` is no key here; did you mean "algorithm"?'),
    ("algorithm is a number", STUDY + "[[arm]]\nalgorithm = 3", "arm 1: `algorithm` is the name of an algorithm; got 3"),
    ("unknown algorithm", STUDY + '[[arm]]\nalgorithm = "dsn"', 'no algorithm "dsn"; did you mean "dns"? known: chance, '),
    ("empty algorithm", STUDY + '[[arm]]\nalgorithm = ""', 'arm "": no algorithm ""; known: chance, '),
    ("empty label", DNS + 'name = ""', "arm \"dns\": `name` is a label: text on one line; got ''"),
    ("label of two lines", DNS + 'name = "a\\nb"', "`name` is a label: text on one line; got 'a\\nb'"),
    ("same label", DNS + '[[arm]]\nalgorithm = "dns"',
     'arm "dns": arms have distinct names, and another one has this; give one '),
    ("unknown sampler", DNS + 'sampler = "gird"',
     "arm \"dns\": `sampler` is one of grid, random, sobol, tpe, nsga2, gp; got 'gird'"),
    ("grid with members", DNS + "members = 3", "`members` is how many a sampler other than grid proposes; got 3"),
    ("grid with a range", DNS + "space.sparsity = {low = 0.1, high = 0.5}",
     "`sparsity` is a list of values for the sampler grid, or a range of whole numbers, all of which are tried; got {'low'"),
    ("grid too large", DNS + MANY,
     "`space` has at most 1000000 combinations; got 1030301"),
    ("random, how many", DNS + 'sampler = "random"', 'arm "dns": `members` is missing: how many the sampler random proposes'),
    ("random, none", DNS + 'sampler = "random"\nmembers = 0',
     "`members` is how many configurations a sampler other than grid proposes: from 1 to 1000000; got 0"),
    ("random, true", DNS + 'sampler = "random"\nmembers = true',
     "`members` is how many configurations a sampler other than grid proposes: from 1 to 1000000; got True"),
    ("seed of a grid", DNS + "sampler_seed = 1", "`sampler_seed` is of samplers that draw, which a grid does not; got 1"),
    ("seed below 0 of a sampler", RANDOM + "sampler_seed = -1", "`sampler_seed` is the seed of what a sampler draws: a whole"),
    ("no condition", MAGNITUDE + "space.ramp = {values = [0.5], when = {}}",
     "`ramp` has a condition such as when = {NAME = VALUE}, or a list of values; got {}"),
    ("on what is not searched", MAGNITUDE + 'space.ramp = {values = [0.5], when = {schedule = "gradual"}}',
     "`ramp` depends on another key of the same `space`; got 'schedule'; known: ramp"),
    ("on no value", MAGNITUDE + 'space.schedule = "gradual"\nspace.ramp = {values = [1], when = {schedule = "x"}}',
     "`ramp` depends on `schedule`, which is when weights are removed: one of one-shot, gradual; got 'x'"),
    ("on a value that is not there", MAGNITUDE + 'space.floor = [0]\nspace.ramp = {values = [1], when = {floor = 0.5}}',
     "`ramp` depends on a value of `floor` that `space` has; got 0.5"),
    ("on itself", MAGNITUDE + "space.ramp = {values = [1], when = {ramp = 1}}",
     "no hyper-parameter depends on itself; got `ramp` on `ramp`"),
    ("in a circle",
     MAGNITUDE + "space.ramp = {values = [1], when = {floor = 0}}\nspace.floor = {values = [0], when = {ramp = 1}}",
     "no hyper-parameter depends on itself; got `"),
    ("random, of what", RANDOM, 'arm "dns": `space` has ranges or several values for the sampler random; got {}'),
    ("random, of one", RANDOM + "space.sparsity = [0.5]",
     "`space` has ranges or several values for the sampler random; got {'sparsity': [0.5]}"),
    ("space is a number", DNS + "space = 3",
     'arm "dns": `space` is a table of hyper-parameters, each with values or a range; got 3'),
    ("typo in the space", DNS + "space.sparcity = 1",
     '`sparcity` is no hyper-parameter of its algorithm; did you mean "sparsity"? known: sparsity, scope'),
    ("no hyper-parameter", STUDY + DENSE + "space.sparsity = 0.5",
     'arm "dense": `sparsity` is no hyper-parameter of its algorithm; known: width, lr, weight_decay'),
    ("sparsity 1", DNS + "space.sparsity = 1", f"{SHARE} 1"),
    ("sparsity above 1", DNS + "space.sparsity = [0.5, 1.5]", f"{SHARE} 1.5"),
    ("sparsity as text", DNS + 'space.sparsity = "0.5"', f"{SHARE} '0.5'"),
    ("sparsity as truth", DNS + "space.sparsity = true", f"{SHARE} True"),
    ("sparsity nan", DNS + "space.sparsity = nan", f"{SHARE} nan"),
    ("sparsity huge", DNS + f"space.sparsity = 0x{'f' * 600}", f"{SHARE} "),
    ("sparsity nested", DNS + "space.sparsity = [[0.5]]", f"{SHARE} [0.5]"),
    ("beta 0", STUDY + TASK + '[[arm]]\nalgorithm = "cronos"\nspace.beta = [1, 0]',
     'arm "cronos": `beta` is the weight of the regulariser as a share of beta_max (default: 0.1; mode paper: `beta_absolute` 0.001): a number in [1e-09, 1]; got 0'),
    ("no values", DNS + "space.sparsity = []", "`sparsity` has distinct values, at least one; got []"),
    ("same values", DNS + "space.sparsity = [0, 0.0]", "`sparsity` has distinct values, at least one; got [0, 0.0]"),
    ("choice", DNS + 'space.scope = "local"', "`scope` is what `sparsity` counts: one of layerwise, global; got 'local'"),
    ("range on a choice", RANDOM + "space.scope = {low = 0, high = 1}",
     "`scope` is what `sparsity` counts: a list of values; got the range {'low': 0"),
    ("no c", DNS + "space.c = []", f"{LIST} []"),
    ("c is a number", DNS + "space.c = 1", f"{LIST} 1"),
    ("c as text", DNS + 'space.c = ["a"]', f"{LIST} ['a']"),
    ("range on c", RANDOM + "space.c = {low = 0, high = 1}", "a list of values; got the range {'low': 0, 'high': 1}"),
    ("not whole", MAGNITUDE + "space.every = 1.5",
     "`every` is the number of steps between masks of a gradual schedule: a whole number in [1, inf); got 1.5"),
    ("too large", MAGNITUDE + "space.every = 0xffffffffffffffff", "a whole number in [1, inf); got 18446744073709551615"),
    ("range upside down", RANDOM + "space.sparsity = {low = 0.5, high = 0.1}",
     "`sparsity` has a range with low < high; got low 0.5, high 0.1"),
    ("range of a point", RANDOM + "space.sparsity = {low = 0.5, high = 0.5}",
     "`sparsity` has a range with low < high; got low 0.5, high 0.5"),
    ("range too wide", RANDOM + "space.sparsity = {low = 0, high = 1}", f"{SHARE} 1"),
    ("range of text", RANDOM + 'space.sparsity = {low = "0", high = 0.5}', f"{SHARE} '0'"),
    ("log from 0", RANDOM + "space.sparsity = {low = 0, high = 0.5, log = true}",
     "`sparsity` has a logarithmic range above 0 (log = false makes it linear); got low 0"),
    ("log by itself from 0", RANDOM + "space.lr = {low = 0, high = 0.5}",
     "`lr` has a logarithmic range above 0 (log = false makes it linear); got low 0"),
    ("log is a number", RANDOM + "space.sparsity = {low = 0.1, high = 0.5, log = 1}",
     f"{RANGE} {{'low': 0.1, 'high': 0.5, 'log': 1}}"),
    ("half a range", RANDOM + "space.sparsity = {low = 0.1}", f"{RANGE} {{'low': 0.1}}"),
    ("range and more", RANDOM + "space.sparsity = {low = 0.1, high = 0.5, step = 0.1}",
     f"{RANGE} {{'low': 0.1, 'high': 0.5, 'step': 0.1}}"),
    ("range not whole", MAGNITUDE + 'sampler = "sobol"\nmembers = 2\nspace.every = {low = 1.5, high = 3}',
     "a whole number in [1, inf); got 1.5"),
)  # fmt: skip


def written(folder: Path, text: str | bytes) -> Path:
    """A study file of `text`."""
    path = folder / "study.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, *settings: str) -> str:
    """The sentence for what is wrong with the study at `path`, without the path in front."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read(path, settings)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert len(sentence.splitlines()) == 1
    assert not any(
        word in sentence.lower()
        for word in ("input should", "valid dictionary", "instance of", "pydantic", "[type=")
    )
    return sentence.removeprefix(f"{path}: ")


def good(folder: Path, text: str | bytes, *settings: str) -> Study:
    return read(written(folder, text), settings)


@pytest.mark.parametrize(
    ("text", "sentence"), [pytest.param(text, sentence, id=what) for what, text, sentence in BAD]
)
def test_mistake(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(written(tmp_path, text))


def test_every_mistake_is_one_change_away_from_a_good_study(tmp_path: Path) -> None:
    for text in (
        study(""),
        seeds("[0]"),
        named('"a"'),
        task("lr = 1"),
        DNS,
        RANDOM + "space.sparsity = [0.1, 0.2]",
        MAGNITUDE,
    ):
        good(tmp_path, text)


def test_unreadable_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml") == "no such file"
    assert refusal(tmp_path) == "a study file can be read; got: Is a directory"
    (tmp_path / "file").touch()
    assert (
        refusal(tmp_path / "file" / "study.toml")
        == "a study file can be read; got: Not a directory"
    )
    assert "TOML in UTF-8; got: 'utf-8' codec" in refusal(written(tmp_path, bytes(range(256))))


@pytest.mark.parametrize(
    "setting", ["x", "study.x", "study=1", "study.=1", "arm.name=1", "x.y=1", "=", "task.lr"]
)
def test_settings_are_key_and_value(tmp_path: Path, setting: str) -> None:
    sentence = refusal(written(tmp_path, study("")), setting)
    assert sentence == f"--set takes study.KEY=VALUE or task.KEY=VALUE; got {setting!r}"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("task.lr=abc", "[task]: `lr` is the learning rate: a number in [0, inf); got 'abc'"),
        ("task.lr=[1", "[task]: `lr` is the learning rate: a number in [0, inf); got '[1'"),
        ("study.seeds=", f"{SEEDS}, below 2^63; got ''"),
        (
            "task.epoch=3",
            '[task]: `epoch` is no key of a task with dataset digits and model mlp; did you mean "epochs"?',
        ),
        ("study.a.b=1", "[study]: `a.b` is no key here;"),
    ],
)
def test_settings_are_checked(tmp_path: Path, setting: str, sentence: str) -> None:
    assert refusal(written(tmp_path, study("")), setting).startswith(sentence)


def test_settings_stand_over_the_file(tmp_path: Path) -> None:
    found = good(
        tmp_path,
        study("keep = 'all'"),
        "study.seeds=[7]",
        "task.lr=0.5",
        "task.model=mlp",
        "task.widths=[3, 4]",
    )
    assert (found.about.seeds, found.about.keep) == ([7], "all")
    assert (found.task.lr, found.task.model_options) == (0.5, {"widths": [3, 4]})
    assert (
        good(tmp_path, STUDY + DENSE, "task.rungs=2").task.rungs == 2
    )  # no table [task] in the file


def test_long_values_are_cut(tmp_path: Path) -> None:
    assert len(refusal(written(tmp_path, seeds(str([5] * 10_000))))) < 200


def test_defaults(tmp_path: Path) -> None:
    found = good(tmp_path, STUDY + DENSE)
    assert found.about.model_dump() == {
        "name": "s", "seeds": [0, 1], "keep": "front", "max_cohort": "auto", "cpus": 1, "gpus": "auto",
        "maximize": ["accuracy_valid"], "minimize": ["flops_masked"], "constraints": [], "batch": 16,
        "rounds": "synchronous", "reduction_factor": None, "floor": 1, "controls": "none", "limit": None,
    }  # fmt: skip
    assert found.task == Task()
    assert found.path == tmp_path / "study.toml"
    (arm,) = found.arms
    assert (arm.name, arm.algorithm_name, arm.sampler, arm.members, arm.space) == (
        "dense",
        "dense",
        "grid",
        None,
        {},
    )


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert good(tmp_path, b"\xef\xbb\xbf" + study("").encode()).about.name == "s"


def test_numbers_take_the_type_of_their_key(tmp_path: Path) -> None:
    found = good(tmp_path, task("epochs = 3\nbatch_size = 16.0\nmomentum = 0")).task
    values = (found.epochs, found.batch_size, found.momentum)
    assert (values, [type(value) for value in values]) == ((3, 16, 0), [float, int, float])


def test_arms_may_have_names(tmp_path: Path) -> None:
    found = good(tmp_path, DNS + 'name = "é 日本, a/b"\n[[arm]]\nalgorithm = "dns"\n')
    assert [arm.name for arm in found.arms] == ["é 日本, a/b", "dns"]


def test_values(tmp_path: Path) -> None:
    (arm,) = good(
        tmp_path, DNS + 'space.sparsity = [0, 0.5]\nspace.scope = "global"\nspace.gamma = 1'
    ).arms
    assert arm.space == {"sparsity": (0.0, 0.5), "scope": ("global",), "gamma": (1.0,)}


def test_a_list_of_numbers_is_one_value_and_a_list_of_lists_several(tmp_path: Path) -> None:
    (one,) = good(tmp_path, DNS + "space.c = [1, 2]").arms
    (two,) = good(tmp_path, DNS + "space.c = [[1, 2], [3, 4]]").arms
    assert (one.space["c"], two.space["c"]) == (((1.0, 2.0),), ((1.0, 2.0), (3.0, 4.0)))


def test_ranges(tmp_path: Path) -> None:
    (arm,) = good(
        tmp_path, RANDOM + "space = {sparsity = {low = 0, high = 0.5}, lr = {low = 1e-3, high = 1}}"
    ).arms
    assert arm.space == {
        "sparsity": Span(0, 0.5, log=False, whole=False),
        "lr": Span(1e-3, 1, log=True, whole=False),
    }
    (arm,) = good(tmp_path, RANDOM + "space.lr = {low = 0, high = 1, log = false}").arms
    assert arm.space == {"lr": Span(0, 1, log=False, whole=False)}
    sobol = 'sampler = "sobol"\nmembers = 2\nspace.every = {low = 1, high = 30, log = true}'
    (arm,) = good(tmp_path, MAGNITUDE + sobol).arms
    assert arm.space == {"every": Span(1, 30, log=True, whole=True)}


def test_a_grid_tries_every_whole_number_of_a_range(tmp_path: Path) -> None:
    (arm,) = good(tmp_path, MAGNITUDE + "space.every = {low = 3, high = 6}").arms
    assert arm.space == {"every": (3, 4, 5, 6)}
    with_float = MAGNITUDE + "space.every = {low = 1, high = 2.5}"
    assert "a whole number" in refusal(written(tmp_path, with_float))


def test_options_go_to_the_data_set_and_the_model_that_take_them(tmp_path: Path) -> None:
    found = good(tmp_path, task('dataset = "parquet"\ntrain = "x"\nlabel = "y"\nwidths = [3]')).task
    assert found.dataset_options == {"train": "x", "label": "y"}
    assert found.model_options == {"widths": [3]}


IN_PYTHON = {
    "study": {"name": "s", "seeds": (0, 1)},
    "task": {"dataset": "digits", "widths": [8], "epochs": 3},
    "arm": [
        {
            "algorithm": "dns",
            "sampler": "random",
            "members": 4,
            "space": {"sparsity": {"low": 0.1, "high": 0.9}, "scope": ("layerwise", "global")},
        }
    ],
}
IN_TOML = (
    STUDY
    + '[task]\ndataset = "digits"\nwidths = [8]\nepochs = 3\n[[arm]]\nalgorithm = "dns"\nsampler = "random"\n'
    + 'members = 4\nspace = {sparsity = {low = 0.1, high = 0.9}, scope = ["layerwise", "global"]}\n'
)


def test_a_study_in_python_is_that_of_its_file(tmp_path: Path) -> None:
    made = Study.from_dict(IN_PYTHON)
    found = good(tmp_path, IN_TOML)
    assert (made.about, made.task, made.arms, made.goals) == (
        found.about,
        found.task,
        found.arms,
        found.goals,
    )
    assert (made.path, made.place) == (None, 'study "s"')
    assert found.place == str(found.path)


def test_a_study_in_python_keeps_nothing_of_what_it_was_given() -> None:
    given = {**IN_PYTHON, "study": {"name": "s", "seeds": [0, 1]}}
    made = Study.from_dict(given)
    given["study"]["seeds"].append(2)
    assert made.about.seeds == [0, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"study": {"name": "s"}}, "[study]: `seeds` is missing: a list of"),
        ({"study": {"name": "s", "seeds": [0], "keep": "some"}}, "[study]: `keep` is which networks are kept: all,"),
        ({"task": {"lr": -1}}, "[task]: `lr` is the learning rate: a number in [0, inf); got -1"),
        ({"task": {"epoch": 3}}, '[task]: `epoch` is no key of a task with dataset digits and model mlp; did you mean "epochs"?'),
        ({"arm": [{"algorithm": "dns", "space": {"sparsity": 2}}]}, SHARE),
        ({"arms": []}, "`arms` is no key here; did you mean"),
        ({"task": {"lr": object()}}, "a study has text, numbers, truth values, and lists and tables of these; got: expected str"),
    ],
)  # fmt: skip
def test_mistakes_in_python_have_the_sentences_of_a_file(
    change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        Study.from_dict({**IN_PYTHON, **change})


def test_paths_in_python_are_text() -> None:
    task = {"dataset": "npz", "path": Path("/data/x.npz")}
    assert Study.from_dict({**IN_PYTHON, "task": task}).task.dataset_options == {
        "path": "/data/x.npz"
    }
