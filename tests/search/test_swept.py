"""Values of [task] that are swept: a study for each, checked before the first begins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prunefront.analysis.rows import swept as recorded
from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.search import DONE, FAILED, INTERRUPTED
from prunefront.search.console import Console
from prunefront.search.drive import swept as driver
from prunefront.search.study import parse, swept

ABOUT = '[study]\nname = "s"\nseeds = [0]\n'
ARM = '[[arm]]\nalgorithm = "dense"\n'
NOISY = "[task]\nwidths = [8]\nepochs = 4\nrungs = 1\nlabel_noise = [0.0, 0.2]\n"


def written(folder: Path, task: str, arm: str = ARM) -> Path:
    path = folder / "study.toml"
    path.write_text(ABOUT + task + arm)
    return path


def test_a_study_without_lists_is_one(tmp_path: Path) -> None:
    path = written(tmp_path, "[task]\nwidths = [8, 4]\naugment = []\nlr = 0.1\n")
    studies = parse.read_swept(path)
    assert list(studies) == [""]
    assert studies[""] == parse.read(path)
    assert studies[""].task.model_options == {"widths": [8, 4]}


def test_each_combination_is_a_study_with_its_values(tmp_path: Path) -> None:
    path = written(tmp_path, "[task]\nlabel_noise = [0, 0.2]\noptimizer = ['sgd', 'adam']\n")
    studies = parse.read_swept(path)
    values = {
        name: (study.task.label_noise, study.task.optimizer) for name, study in studies.items()
    }
    assert values == {
        "label_noise=0,optimizer=sgd": (0.0, "sgd"),
        "label_noise=0,optimizer=adam": (0.0, "adam"),
        "label_noise=0.2,optimizer=sgd": (0.2, "sgd"),
        "label_noise=0.2,optimizer=adam": (0.2, "adam"),
    }
    assert studies["label_noise=0,optimizer=adam"].about.name == "s, label_noise=0,optimizer=adam"
    assert swept.named(studies) == "s"


def test_precision_is_swept_by_its_older_name_too(tmp_path: Path) -> None:
    for key, values in (("precision", ["float32", "bf16"]), ("dtype", ["float32", "float64"])):
        path = written(tmp_path, f"[task]\n{key} = {values}\n")
        studies = parse.read_swept(path)
        assert list(studies) == [f"{key}={value}" for value in values]
        assert [study.task.precision for study in studies.values()] == values


def test_a_list_of_one_value_is_swept_too(tmp_path: Path) -> None:
    assert list(parse.read_swept(written(tmp_path, "[task]\ntrain_share = [0.5]\n"))) == [
        "train_share=0.5"
    ]


def test_set_sweeps_as_the_file_does(tmp_path: Path) -> None:
    path = written(tmp_path, "[task]\nwidths = [8]\n")
    assert list(parse.read_swept(path, ["task.imbalance=[1, 4]"])) == ["imbalance=1", "imbalance=4"]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("label_noise = []", "`label_noise` has one value, or a list of distinct values to sweep; got []"),
        ("label_noise = [0.1, 0.1]", "a list of distinct values to sweep; got [0.1, 0.1]"),
        ("label_noise = [0, 0.0]", "a list of distinct values to sweep; got [0, 0.0]"),
        ("wrap = [true, 'yes']", "`wrap` is true or false; got 'yes'"),
        ("label_noise = [[0.1], [0.2]]", "a list of distinct values to sweep; got [[0.1], [0.2]]"),
        ("label_noise = [0, 1]", "`label_noise` "),
        ("label_noise = [0, 'much']", "`label_noise` "),
        ("train_share = [0, 1]", "`train_share` "),
        (f"split_seed = {list(range(65))}", "make at most 64 studies; got 65"),
        ("nothing = [1, 2]", "`nothing` is no key of a task"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, task: str, sentence: str) -> None:
    path = written(tmp_path, f"[task]\n{task}\n")
    with pytest.raises(Mistake) as caught:
        parse.read_swept(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_what_takes_one_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="takes a study with one value for each key"):
        parse.read(written(tmp_path, NOISY))


@pytest.mark.parametrize(
    ("codes", "worst", "begun"),
    [
        ([DONE, DONE], DONE, 2),
        ([FAILED, DONE], FAILED, 2),
        ([DONE, INTERRUPTED], INTERRUPTED, 2),
        ([INTERRUPTED], INTERRUPTED, 1),
    ],
)
def test_one_after_the_other_until_one_is_interrupted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codes: Sequence[int],
    worst: int,
    begun: int,
) -> None:
    places: list[Path] = []
    left = list(codes)

    def run_one(study: Any, folder: Path, *_: Any) -> int:
        places.append(folder)
        return left.pop(0)

    monkeypatch.setattr("prunefront.search.drive.run.run", run_one)
    studies = parse.read_swept(written(tmp_path, NOISY))
    assert driver.run(studies, tmp_path / "out", Console()) == worst
    folders = recorded.studies(tmp_path / "out")
    assert list(folders) == ["label_noise=0.0", "label_noise=0.2"]
    assert places == list(folders.values())[:begun]


def test_all_are_checked_before_the_first_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunefront.search.drive.run.run", lambda *_: pytest.fail("begun"))
    wrong = "[task]\nepochs = 1\nrungs = [1, 1000]\n"
    studies = parse.read_swept(written(tmp_path, wrong))
    with pytest.raises(Mistake, match="`rungs`"):
        driver.run(studies, tmp_path / "out", Console())
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_one_study_or_swept_ones(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "plan").mkdir(parents=True)
    with pytest.raises(Mistake, match="got one of a study that sweeps none: choose another --out"):
        driver.run(parse.read_swept(written(tmp_path, NOISY)), out, Console())
    other = tmp_path / "other"
    recorded.record(other, ["label_noise=0"])
    one = parse.read_swept(written(tmp_path, "[task]\nwidths = [8]\n"))
    with pytest.raises(Mistake, match="got one of swept values: choose another --out"):
        driver.run(one, other, Console())


def test_values_have_parents_rows_and_reports_of_their_own_with_ray(tmp_path: Path) -> None:
    arms = ARM + '[[arm]]\nalgorithm = "magnitude"\nspace.sparsity = [0.5]\n'
    path = written(tmp_path, NOISY, arms)
    out = tmp_path / "out"
    words = ["prunefront", "run", str(path), "--out", str(out)]
    main = "import sys; from prunefront.search.cli import main; sys.argv = sys.argv[1:]; main()"

    done = subprocess.run([sys.executable, "-c", main, *words], capture_output=True, text=True)
    assert done.returncode == DONE, done.stderr
    assert "what pruning changes at each value" in done.stdout
    accuracies = []
    for value, folder in recorded.studies(out).items():
        last = table.last(table.read(folder))
        assert (last["status"] == "done").all()
        assert last["study"].eq(f"s, {value}").all()
        assert (folder / "report" / "report.html").exists()
        assert len(list((folder / "starts").iterdir())) == 1, "a dense network of its own"
        accuracies.append(last.set_index("arm")["accuracy_train"]["dense"])
    assert accuracies[0] != accuracies[1]
    lines = (out / "across" / "across.csv").read_text().splitlines()
    assert len(lines) == 3, (
        "the pruned setting at each value; the parent is what it is compared with"
    )


def test_an_output_folder_that_cannot_be_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    studies = parse.read_swept(written(tmp_path, NOISY))
    for place in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / ("o" * 300)):
        with pytest.raises(Mistake, match="the output folder"):
            driver.run(studies, place, Console())


def test_the_parent_is_added_where_no_arm_is_it(tmp_path: Path) -> None:
    arm = '[[arm]]\nalgorithm = "magnitude"\nspace.sparsity = [0.5]\n'
    for study in parse.read_swept(written(tmp_path, NOISY, arm)).values():
        assert [one.name for one in study.arms] == ["magnitude", "dense"]
    for study in parse.read_swept(written(tmp_path, NOISY, ARM + arm)).values():
        assert [one.name for one in study.arms] == ["dense", "magnitude"]
    (unswept,) = parse.read_swept(written(tmp_path, "[task]\nwidths = [8]\n", arm)).values()
    assert [one.name for one in unswept.arms] == ["magnitude"]


def test_wrapped_and_plain_can_be_swept(tmp_path: Path) -> None:
    path = written(tmp_path, "[task]\nwidths = [8, 8]\nwrap = [false, true]\n")
    studies = parse.read_swept(path)
    assert list(studies) == ["wrap=false", "wrap=true"]
    assert studies["wrap=true"].task.model_options == {"widths": [8, 8], "wrap": True}


def test_a_folder_is_of_one_sweep_and_says_which_values_it_compares_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prunefront.search.drive.run.run", lambda *_: DONE)
    path, out = written(tmp_path, NOISY), tmp_path / "out"
    assert driver.run(parse.read_swept(path), out, Console()) == DONE
    fewer = parse.read_swept(path, ["task.label_noise=[0.0]"])
    assert driver.run(fewer, out, Console()) == DONE
    assert "label_noise=0.2 is compared no more; its rows are kept in " in capsys.readouterr().out
    others = parse.read_swept(path, ["task.label_noise=0.0", "task.lr=[0.1, 0.2]"])
    with pytest.raises(Mistake, match="is of one sweep, this one of label_noise; got lr: choose"):
        driver.run(others, out, Console())


def test_a_key_of_the_task_in_another_table_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(ABOUT + "rungs = 1\n" + ARM)
    with pytest.raises(Mistake, match="`rungs` is no key here; it is one of \\[task\\]"):
        parse.read(path)


def test_no_study_keeps_the_data_of_another_value_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def run_one(study: Any, *_: Any) -> int:
        seen.append(study.task)
        return DONE

    monkeypatch.setattr("prunefront.search.drive.run.run", run_one)
    studies = parse.read_swept(written(tmp_path, NOISY))
    driver.run(studies, tmp_path / "out", Console())
    for study, task in zip(studies.values(), seen, strict=True):
        assert task == study.task
        for one in (task, study.task):
            assert "data" not in vars(one.workbench), "read where it is used, and let go of there"
