"""Files of a study beyond this machine: a real server of S3's protocol, and what goes wrong there."""

from __future__ import annotations

import dataclasses
import errno
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from test_report import measured

from prunefront.analysis import report
from prunefront.analysis.inference import latency
from prunefront.analysis.rows import table
from prunefront.analysis.rows.storage import (
    Location,
    Remote,
    atomic,
    each,
    local,
    locate,
    read_range,
    remove_tree,
)
from prunefront.search.drive import lock
from prunefront.search.drive.lock import leased
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.networks import export, keep_only, kept_members, load_network
from prunefront.trainables.records.physical import load
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task
from prunefront.trainables.training.dense import dense_networks, dense_ready


@pytest.fixture
def folder(store: str) -> Iterator[Remote]:
    """A folder of its own in the bucket."""
    found = locate(f"{store}/a study/{time.monotonic_ns()}")
    assert isinstance(found, Remote)
    yield found
    remove_tree(found)


def silent(self: Remote) -> bytes:
    """What reading is when the server does not answer."""
    raise OSError(errno.EIO, "no answer", str(self))


# ---- names


@pytest.mark.parametrize("where", ["runs/digits", "/tmp/x", Path("a"), "C:/x", "s3:/x", ""])
def test_what_has_no_scheme_is_a_path(where: str | Path):
    assert locate(where) == Path(where)


def test_a_uri_of_this_machine_is_a_path():
    assert locate("file:///tmp/a%20b") == Path("/tmp/a b")


def test_a_location_is_made_again_from_its_text_and_from_a_pickle(store: str):
    one = locate(f"{store}/runs%20of/x/?scheme=http")
    assert str(one / "rows") == "s3://bucket/runs%20of/x/rows?scheme=http"
    for same in (
        locate(one),
        locate(str(one)),
        pickle.loads(pickle.dumps(one)),
        (one / "y" / "z").parent.parent,
    ):
        assert same == one
        assert hash(same) == hash(one)
    assert (one / "a.b.c").name == "a.b.c"
    assert (one / "a.b.c").stem == "a.b"
    assert (one / "a.b.c").suffix == ".c"


KNOWN = "a location is a path or a URI that pyarrow.fs knows, such as s3://, gs://, abfs:// or hdfs://; got: "
FORM = "a location is SCHEME://PLACE/PATH, its credentials in the environment or in the provider's own files"


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("ftp://host/x", f"ftp://host: {KNOWN}Unrecognized filesystem type in URI: ftp://host/"),
        (
            "s3://bucket/x?colour=red",
            f"s3://bucket: {KNOWN}Unexpected query parameter in S3 URI: 'colour'",
        ),
        ("s3://", f"s3://: {FORM}"),
        ("s3://bucket/x#y", f"s3://bucket/x#y: {FORM}"),
        ("s3://key:secret@bucket/x", f"s3://key:***@bucket/x: {FORM}"),
    ],
)
def test_a_uri_that_is_none(uri: str, sentence: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
        locate(uri)
    assert str(caught.value) == sentence


# ---- files


def test_files_are_written_read_listed_moved_and_removed(folder: Remote):
    assert not folder.exists()
    assert folder.glob("*") == []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in" / "a.txt").write_text("one ✓")
    (folder / "b.bin").write_bytes(b"")
    (folder / ".c").write_bytes(b"0123456789")
    assert (folder / "in" / "a.txt").read_text() == "one ✓"
    assert (folder / "b.bin").read_bytes() == b""
    assert [path.name for path in folder.iterdir()] == [".c", "b.bin", "in"]
    assert folder.glob("[!.]*") == [folder / "b.bin", folder / "in"]
    assert (
        folder.is_dir(),
        folder.is_file(),
        (folder / ".c").is_dir(),
        (folder / ".c").is_file(),
    ) == (
        True,
        False,
        False,
        True,
    )
    assert read_range(folder / ".c", 3, 4) == b"3456"
    assert read_range(folder / ".c", 8, 4) == b"89"
    (folder / ".c").replace(folder / "d e")
    (folder / "d e").replace(str(folder / "f%g"))
    assert (folder / "f%g").read_bytes() == b"0123456789"
    with local(folder / "f%g") as here:
        assert here.read_bytes() == b"0123456789"
        assert here.name == "f%g"
    assert not here.parent.exists()
    (folder / "f%g").unlink()
    (folder / "f%g").unlink(missing_ok=True)
    for lost in (
        lambda: (folder / "f%g").unlink(),
        lambda: (folder / "f%g").read_bytes(),
        lambda: read_range(folder / "no", 0, 1),
    ):
        with pytest.raises(FileNotFoundError, match="Path does not exist"):
            lost()
    remove_tree(folder / "in")
    remove_tree(folder / "in")
    assert folder.glob("*") == [folder / "b.bin"]


@pytest.mark.parametrize("here", [True, False])
def test_a_block_that_fails_leaves_what_was_there(folder: Remote, tmp_path: Path, here: bool):
    place: Location = tmp_path if here else folder
    (place / "x").write_text("before")
    for name in ("x", "y"):
        block = atomic(place / name)
        temporary = block.__enter__()
        temporary.write_text("half")
        assert not block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert not temporary.exists()
    assert [path.name for path in place.iterdir()] == ["x"]
    assert (place / "x").read_text() == "before"
    with atomic(place / "x") as temporary:
        temporary.write_bytes(bytes(12 << 20))  # in parts, where there are parts
    assert (place / "x").read_bytes() == bytes(12 << 20)


def test_a_small_object_is_one_request_and_writing_to_no_bucket_an_error(store: str):
    """Closing is where a store says so, and pyarrow's own copying loses that error."""
    nowhere = locate("s3://nowhere/x")
    with pytest.raises(
        OSError, match="PutObject operation: The specified bucket does not exist"
    ) as caught:
        (nowhere / "y").write_bytes(b"content")
    assert "\n" not in str(caught.value)
    assert "Request ID" not in str(caught.value)
    assert not nowhere.exists()


def test_a_server_that_is_not_there_is_given_up_in_seconds(store: str):
    begun = time.monotonic()
    with pytest.raises(OSError, match="Could not connect to server") as caught:
        (locate("s3://bucket?endpoint_override=127.0.0.1:9&scheme=http") / "x").read_bytes()
    assert time.monotonic() - begun < 30
    assert "\n" not in str(caught.value)


def test_several_are_asked_at_a_time(folder: Remote):
    together = threading.Barrier(4, timeout=20)
    assert each(
        lambda path: (together.wait() >= 0, path.name)[1], [folder / name for name in "abcd"]
    ) == list("abcd")


def test_a_process_that_used_a_store_ends_in_silence(folder: Remote):
    code = f"""
import threading
from prunefront.analysis.rows.storage import locate
from prunefront.search.drive.lock import leased
folder = locate({str(folder)!r})
(folder / "x").write_text("y")
forgotten = leased(folder, 0.2)
forgotten.__enter__()
kept = folder
print(kept / "x")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert locate(done.stdout.strip()).read_bytes() == b"y"


# ---- a study

FOUND = [
    measured(arm, sparsity, seed, "x")
    for arm, sparsity in (("dense", 0.0), ("dns", 0.8))
    for seed in (0, 1)
]


def save(folder: Location) -> None:
    """A study's rows, one file for each arm."""
    for arm in ("dense", "dns"):
        part = [row for row in FOUND if row["arm"] == arm]
        table.write(
            folder / "rows" / f"{arm}.parquet", part, {"sparsity": pa.float64()}, {"commit": "abc"}
        )


def test_rows_are_written_and_read_there_each_file_once(
    folder: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(folder)
    save(tmp_path)
    asked: list[str] = []
    real, listed = Remote.read_bytes, Remote.glob
    monkeypatch.setattr(Remote, "read_bytes", lambda self: (asked.append(self.name), real(self))[1])
    monkeypatch.setattr(
        Remote,
        "glob",
        lambda self, pattern: (asked.append(f"list {self.name}"), listed(self, pattern))[1],
    )
    assert table.read(folder).equals(table.read(tmp_path))
    assert sorted(asked) == ["dense.parquet", "dns.parquet", "list rows"]
    assert table.footers(folder) == table.footers(tmp_path)


def test_files_that_cannot_be_trusted_are_set_aside_and_a_silent_server_is_not_their_fault(
    folder: Remote, monkeypatch: pytest.MonkeyPatch
):
    save(folder)
    torn = folder / "rows" / "torn.parquet"
    torn.write_bytes((folder / "rows" / "dns.parquet").read_bytes()[:-100])
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "read_bytes", silent)
        with pytest.raises(OSError, match="no answer"):
            table.set_aside(folder)
    assert len(table.files(folder)) == 3
    (why,) = table.set_aside(folder).items()
    assert why[0] == torn
    assert why[1].startswith("unreadable")
    assert len(table.files(folder)) == 2
    assert [path.name for path in (folder / "rejected").iterdir()] == ["torn.parquet"]
    assert len(table.read(folder)) == len(FOUND)


def test_a_report_is_written_there(folder: Remote):
    save(folder)
    page = report.build(folder)
    assert page == folder / "report" / "report.html"
    assert "Operating points" in page.read_text()
    assert (folder / "report" / "front.png").read_bytes().startswith(b"\x89PNG")
    assert latency.timings(folder).empty


TASK = Task(model_options={"widths": [4]}, epochs=2, rungs=2, dense_share=0.5)
HP = complete(find("dns").space, {"sparsity": 0.5})
COHORT = Cohort("00000-test", "surgery", "dns", (Member(HP, 0), Member(HP, 1)))


def trained(folder: Location) -> Location:
    task = dataclasses.replace(TASK, starts=str(folder / "starts"))
    dense_networks(task, [0, 1], task.dense_steps)
    Training(folder, "study", task, COHORT, True).advance()
    second = Training(folder, "study", task, COHORT, True)  # carries on from the State that is kept
    assert second.rung == 1
    second.advance()
    assert second.finished
    assert dense_ready(task, [0, 1])
    assert not dense_ready(task, [2])
    return folder


def test_a_cohort_trains_there_as_it_does_here(folder: Remote, tmp_path: Path):
    there, here = trained(folder), trained(tmp_path)
    found = table.read(there)
    clock = list(table.CLOCK)
    assert found.drop(columns=clock).equals(table.read(here).drop(columns=clock))
    first, second = table.last(found)["member"]
    assert kept_members(there) == {first, second}
    before = load_network(here, first).state_dict()
    assert keep_only(there, {first}) == 0
    after = load_network(there, first).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    export(there, first, there / "small.safetensors")
    assert load(there / "small.safetensors")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(ValueError, match="no kept network"):
        load_network(there, second)
    assert keep_only(there, set()) == 0
    assert not kept_members(there)


def test_a_state_comes_back_bit_for_bit(folder: Remote):
    state = State(
        {"seed": torch.tensor([3, 4]), "params": {"w": torch.rand(2, 3)}},
        {"rung": 1},
        {"x": torch.rand(4)},
    )
    state.save(folder / "state")
    back = State.load(folder / "state", torch.device("cpu"))
    assert torch.equal(back.members["params"]["w"], state.members["params"]["w"])
    assert torch.equal(back.shared["x"], state.shared["x"])
    assert back.scalars == state.scalars


# ---- the lease

TAKEN = "one run at a time writes to an output folder; another one does now"


def test_one_holds_a_folder_and_gives_it_back(folder: Remote):
    with leased(folder, 0.3) as check:
        with (
            pytest.raises(ValueError, match=f"{TAKEN} on .*, process [0-9]+$"),
            leased(folder, 0.3),
        ):
            pass
        time.sleep(1.2)  # it is renewed, and so the next one does not see it run out
        with pytest.raises(ValueError, match=TAKEN), leased(folder, 0.3):
            pass
        check()
    assert not (folder / "lock").exists()
    with leased(folder, 0.3) as check:
        check()


def test_a_lease_whose_holder_was_killed_runs_out(folder: Remote):
    (folder / "lock").write_text("somebody host 1 7")
    begun = time.monotonic()
    with leased(folder, 0.3) as check:
        assert 0.9 <= time.monotonic() - begun < 5
        check()


def test_a_lease_that_was_lost_is_said_so_and_left_to_the_other(folder: Remote):
    with leased(folder, 0.2) as check:
        (folder / "lock").write_text("somebody host 1 7")
        time.sleep(1)
        with pytest.raises(ValueError, match=f"{TAKEN} on host, process 1, or did"):
            check()
    assert (folder / "lock").read_text() == "somebody host 1 7"


def test_of_two_that_begin_together_the_last_to_write_holds_it(
    folder: Remote, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        lock.time, "sleep", lambda _: (folder / "lock").write_text("somebody host 1 0")
    )
    with pytest.raises(ValueError, match=TAKEN), leased(folder, 10):
        pass
    assert (folder / "lock").read_text() == "somebody host 1 0"


def test_a_holder_that_cannot_renew_gives_up(folder: Remote, monkeypatch: pytest.MonkeyPatch):
    with leased(folder, 0.2) as check:
        with monkeypatch.context() as patch:
            patch.setattr(Remote, "read_text", silent)
            time.sleep(0.4)
            check()
            time.sleep(1)
        with pytest.raises(ValueError, match="or did"):
            check()


def test_a_block_that_fails_gives_the_folder_back(folder: Remote):
    with pytest.raises(KeyboardInterrupt), leased(folder, 0.3):
        raise KeyboardInterrupt
    assert not (folder / "lock").exists()
