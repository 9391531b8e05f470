"""Faults: a study that is hurt again and again ends with the table of a calm run, bit for bit.

Runs STUDY once in peace, then hurts it at random times, uniform over the calm run's: several faults
for each run, several runs for each output folder, until the same command ends by itself. Then the
table (without what a clock wrote) and the kept networks are those of the calm run, the report is
there, and no temporary, torn or rejected file. Kinds:

    worker      kill -9 of a process that trains
    driver      kill -9 of the driver
    write       kill -9 of driver and workers as soon as a temporary file is seen
    interrupt   Ctrl-C, of which the driver stops in good order
    twice       Ctrl-C, and again in less than a second
    terminate   SIGTERM to the driver
    group       SIGTERM to its process group, as `timeout` and schedulers send it
    full        the file system of the output folder is full for some seconds (a tmpfs: needs root)
    stall       the object store of the output folder does not answer for some seconds
    refuse      it takes no connection for some seconds
    node        kill -9 of the second node of a cluster, which is then started again

    python benchmarks/faults.py [STUDY] [--faults 100] [--seed 0] [--kinds worker,driver]

Exits with 1 if anything differs, or if a process of a driver that was killed lives on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from prunefront.analysis.rows import table
from prunefront.analysis.rows.storage import Location, locate, remove_tree
from prunefront.trainables.records.networks import kept_members

RUNS = 12
"""Runs of a folder that are hurt before it is left in peace."""
FAULTS = 3
"""Faults of one run at most: a cohort whose worker dies more often than that may count as failed.
"""
OUTAGE = (0.5, 12.0)
"""Seconds for which storage fails. A cohort is tried again for about as long."""
PATIENCE = 180.0
"""Seconds in which the processes of a driver that was killed vanish: some try for a minute to reach
the others.
"""
LONGEST = 900.0
"""Seconds after which a driver hangs."""
SERVER = """
import sys
from moto.server import ThreadedMotoServer
port = 0
for line in sys.stdin:
    if line == "serve\\n":
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
        print(port, flush=True)
    else:
        server.stop()
"""
WEIGHTS = {
    "worker": 28,
    "driver": 16,
    "write": 12,
    "interrupt": 7,
    "twice": 7,
    "terminate": 4,
    "group": 3,
    "full": 6,
    "stall": 4,
    "refuse": 4,
    "node": 9,
}
"""Kind -> how often it is drawn among others."""


def start(study: Path, folder: Location, *more: str, **options: object) -> subprocess.Popen[str]:
    """A driver of `study` in `folder`, its output captured."""
    main = "from prunefront.search.cli import main; main()"
    command = [sys.executable, "-c", main, "run", str(study), "--out", str(folder), *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def rows(folder: Location) -> pd.DataFrame:
    """A study's table without the columns that a clock wrote, in an order of its own."""
    frame = table.read(folder).drop(columns=list(table.CLOCK))
    return frame.sort_values(["arm", "member", "rung"], ignore_index=True)[sorted(frame.columns)]


def processes(session: int) -> dict[int, str]:
    """The processes of a session that live, and what they are called."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, of = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found[int(path.name)] = (
                    (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
    return found


def workers(session: int) -> list[int]:
    """The processes of a session that train, or are about to."""
    return sorted(
        number
        for number, called in processes(session).items()
        if called.startswith("ray::") and "Trainable" in called
    )


def kill(numbers: list[int]) -> None:
    """SIGKILL, for those that are still there."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def names(folder: Location) -> Iterator[str]:
    """The paths of all files below `folder`."""
    for path in folder.iterdir():
        yield from names(path) if path.is_dir() else [str(path)]


def wrong(folder: Location, calm: pd.DataFrame, kept: set[str]) -> str:
    """What is not as after the calm run; empty: nothing."""
    found = [path.removeprefix(str(folder)) for path in names(folder)]
    hidden = [path for path in found if "/." in path]
    if hidden:
        return f"temporary files are left: {hidden}"
    if any(path.startswith(("/state/", "/rejected/")) for path in found):
        return "states or rejected files are left"
    if lacking := {"report.html", "front.csv", "front.svg", "front.png"} - {
        Path(p).name for p in found if "/report/" in p
    }:
        return f"the report lacks {sorted(lacking)}"
    if kept_members(folder) != kept:
        return "other networks were kept"
    try:
        pd.testing.assert_frame_equal(rows(folder), calm, check_exact=True)
    except (AssertionError, ValueError) as error:
        return f"the table differs: {error}"
    return ""


class Place:
    """Where a study runs that is to be hurt: a folder of this machine.

    kinds: of faults; those in `ends` end the driver.  options: of the command.
    """

    kinds: dict[str, Callable[[subprocess.Popen[str], Location, random.Random], str]]
    options: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    ends = ("driver", "write", "interrupt", "twice", "terminate", "group")

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.kinds = {
            "worker": self.worker,
            "driver": self.driver,
            "write": self.write,
            "interrupt": self.interrupt,
            "twice": self.twice,
            "terminate": self.terminate,
            "group": self.group,
        }

    def folder(self, name: str) -> Location:
        return self.scratch / name

    def worker(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        """Each fault tells what it did, beside its kind; empty: there was nothing to hurt any more."""
        while driver.poll() is None:
            if found := workers(driver.pid):
                kill([chance.choice(found)])
                return f"one of {len(found)}"
            time.sleep(0.05)
        return ""

    def driver(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        driver.kill()
        return "killed"

    def write(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        looked, victims = 0.0, list[int]()
        while driver.poll() is None:
            if time.monotonic() - looked > 0.5:
                victims, looked = [*workers(driver.pid), driver.pid], time.monotonic()
            for part in ("rows", "state", "plan"):
                with (
                    contextlib.suppress(FileNotFoundError),
                    os.scandir(str(folder / part)) as found,
                ):
                    if name := next(
                        (entry.name for entry in found if entry.name.startswith(".")), ""
                    ):
                        kill(victims)
                        time.sleep(0.2)
                        return f"{part}: {'torn' if (folder / part / name).exists() else 'just written'}"
            time.sleep(0.0005)
        return ""

    def interrupt(
        self, driver: subprocess.Popen[str], folder: Location, chance: random.Random
    ) -> str:
        driver.send_signal(signal.SIGINT)
        return "once"

    def twice(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        driver.send_signal(signal.SIGINT)
        between = chance.uniform(0.05, 1)
        time.sleep(between)
        driver.send_signal(signal.SIGINT)
        return f"{between:.2f} s between"

    def terminate(
        self, driver: subprocess.Popen[str], folder: Location, chance: random.Random
    ) -> str:
        driver.terminate()
        return "terminated"

    def group(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        os.killpg(driver.pid, signal.SIGTERM)
        return "terminated"

    def close(self) -> None:
        """Leave no process and no mount behind."""


class Disk(Place):
    """A small file system that is filled now and then."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.disk = scratch / "disk"
        self.disk.mkdir()
        self.kinds = {"full": self.full}
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.disk)], check=True
        )

    def folder(self, name: str) -> Location:
        return self.disk / name

    def full(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        ballast, seconds = self.disk / "ballast", chance.uniform(*OUTAGE)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        time.sleep(seconds)
        ballast.unlink()
        return f"for {seconds:.1f} s"

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.disk)], check=True)


class Store(Place):
    """A bucket on a server of S3's protocol."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.kinds = {"stall": self.stall, "refuse": self.refuse}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.environment = {
            "AWS_ENDPOINT_URL": self.serve(),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        os.environ |= self.environment
        bucket = urllib.request.Request(
            f"{self.environment['AWS_ENDPOINT_URL']}/bucket", method="PUT"
        )
        urllib.request.urlopen(bucket).close()

    def serve(self) -> str:
        assert self.server.stdout is not None
        self.say("serve")
        return f"http://127.0.0.1:{int(self.server.stdout.readline())}"

    def say(self, word: str) -> None:
        assert self.server.stdin is not None
        self.server.stdin.write(f"{word}\n")
        self.server.stdin.flush()

    def folder(self, name: str) -> Location:
        return locate(f"s3://bucket/{name}")

    def stall(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        seconds = chance.uniform(*OUTAGE)
        self.server.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.server.send_signal(signal.SIGCONT)
        return f"for {seconds:.1f} s"

    def refuse(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        seconds = chance.uniform(*OUTAGE)
        self.say("stop")
        time.sleep(seconds)
        self.serve()
        return f"for {seconds:.1f} s"

    def close(self) -> None:
        self.server.kill()
        self.server.wait()


class Cluster(Place):
    """Two nodes of one CPU each, as `ray start` makes them."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.kinds = {"node": self.node}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",
        }
        self.options = ("--address", self.address)
        port = self.address.partition(":")[2]
        temporary = tempfile.mkdtemp(
            prefix="faults-", dir="/tmp"
        )  # Ray's sockets need a short path
        head = ["--head", "--port", port, "--include-dashboard=false", "--temp-dir", temporary]
        self.temporary, self.nodes = temporary, [self.started(head)]
        self.nodes.append(self.started(["--address", self.address]))

    def started(self, options: list[str]) -> subprocess.Popen[bytes]:
        said = self.scratch / "node"
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--num-cpus",
            "1",
        ]
        command += ["--object-store-memory", str(100 << 20), "--disable-usage-stats", *options]
        with said.open("w") as file:
            node = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        while "Ray runtime started" not in said.read_text():
            if node.poll() is not None:
                raise RuntimeError(said.read_text())
            time.sleep(0.1)
        return node

    def node(self, driver: subprocess.Popen[str], folder: Location, chance: random.Random) -> str:
        node = self.nodes.pop()
        trained = len(workers(node.pid))
        kill([*processes(node.pid)])
        node.wait()
        self.nodes.append(self.started(["--address", self.address]))
        return f"{trained} training there"

    def close(self) -> None:
        for node in self.nodes:
            kill([*processes(node.pid)])
            node.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


PLACES = {
    kind: place
    for place, kinds in {Disk: ["full"], Store: ["stall", "refuse"], Cluster: ["node"]}.items()
    for kind in kinds
}


class Record:
    """What was done, and what came of it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.done, self.late = Counter[str](), Counter[str]()
        self.torn = 0
        self.sessions: list[int] = []
        self.wrong: list[str] = []

    def fault(self, kind: str, seconds: float, files: int, what: str) -> None:
        self.done[kind] += 1
        self.late[kind] += files > 0
        self.torn += what.endswith("torn")
        at = f"{seconds:.1f} s into its run, {files} row files written"
        print(f"  fault {self.done.total()} of {self.most}: {kind} ({what}), {at}", flush=True)


def hurt(
    study: Path,
    place: Place,
    folder: Location,
    cards: list[str],
    seconds: float,
    chance: random.Random,
    record: Record,
) -> float:
    """Run the study in `folder` with faults of the kinds that `cards` has from its end on, then
    until it ends well.

    seconds: of the calm run.  Returns the wall time of all runs.
    """
    spent, said = 0.0, ""
    for run in range(RUNS + 4):
        dealt: list[str] = []
        while (
            run < RUNS and cards and len(dealt) < FAULTS and not (dealt and dealt[-1] in place.ends)
        ):
            dealt.append(cards.pop())
        begun = time.monotonic()
        driver = start(
            study,
            folder,
            *place.options,
            start_new_session=True,
            env={**os.environ, **place.environment},
        )
        record.sessions.append(driver.pid)
        for at, kind in zip(
            sorted(chance.uniform(0, seconds) for _ in dealt), list(dealt), strict=True
        ):
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(max(0.0, begun + at - time.monotonic()))
            files = 0 if driver.poll() is not None else len(table.files(folder))
            since = time.monotonic() - begun
            what = "" if driver.poll() is not None else place.kinds[kind](driver, folder, chance)
            if not what:
                break
            dealt.remove(kind)
            record.fault(kind, since, files, what)
        cards += reversed(dealt)  # the driver ended before them
        try:
            said, _ = driver.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            kill([*processes(driver.pid)])
            record.wrong.append(
                f"{folder}: a driver hangs: it went on for {time.monotonic() - begun:.0f} s"
            )
            return spent
        spent += time.monotonic() - begun
        if driver.returncode == 0:
            return spent
        last = (said.strip().splitlines() or [""])[-1][:150]
        print(f"  run {run + 1} ended with {driver.returncode}: {last}", flush=True)
    record.wrong.append(f"{folder}: does not end; it said: {said[-2000:]}")
    return spent


def vanished(sessions: list[int]) -> list[str]:
    """What lives on of drivers that were killed, after a while; it is ended."""
    end = time.monotonic() + PATIENCE
    while (
        left := {number: called for s in sessions for number, called in processes(s).items()}
    ) and time.monotonic() < end:
        time.sleep(1)
    kill([*left])
    return [*left.values()]


class Calm:
    """What a study leaves that nothing has hurt."""

    def __init__(self, folder: Location) -> None:
        self.rows, self.kept = rows(folder), kept_members(folder)


def series(
    study: Path,
    place: Place,
    cards: list[str],
    calm: Calm | None,
    chance: random.Random,
    record: Record,
) -> Calm:
    """A calm run in `place`, then hurt ones until no card is left. calm: of another place; each
    must be equal to it.
    """
    label = type(place).__name__.lower()
    folder, overheads = place.folder(f"calm-{label}"), list[float]()
    seconds = hurt(study, place, folder, [], 0, chance, record)
    calm = calm or Calm(folder)
    why = wrong(folder, calm.rows, calm.kept)
    record.wrong += [f"{folder}: {why}"] if why else []
    members = calm.rows["member"].nunique()
    print(
        f"{label}: calm run {seconds:.1f} s, {members} members, {len(calm.rows)} rows", flush=True
    )
    while cards:
        folder = place.folder(f"{label}-{len(overheads)}")
        overheads.append(hurt(study, place, folder, cards, seconds, chance, record) / seconds)
        why = wrong(folder, calm.rows, calm.kept)
        record.wrong += [f"{folder}: {why}"] if why else []
        print(
            f"  {folder.name}: {overheads[-1]:.2f} of the calm run's time; {why or 'the same, bit for bit'}",
            flush=True,
        )
        if not why:
            remove_tree(folder)
    if overheads:
        low, middle, high = min(overheads), statistics.median(overheads), max(overheads)
        print(
            f"{label}: {middle:.2f} of the calm run's wall time, the median ({low:.2f} to {high:.2f})",
            flush=True,
        )
    return calm


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, nargs="?", default=Path("studies/faults.toml"))
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(WEIGHTS))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kinds, chance, record = given.kinds.split(","), random.Random(given.seed), Record(given.faults)
    drawn = chance.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=given.faults)
    scratch, calm = Path(tempfile.mkdtemp(prefix="prunefront-faults-")), None
    try:
        for type_ in (Place, Disk, Store, Cluster):
            cards = [kind for kind in drawn if PLACES.get(kind, Place) is type_]
            if cards or type_ is Place:
                with contextlib.closing(type_(scratch)) as place:
                    calm = series(given.study, place, cards, calm, chance, record)
        record.wrong += [f"lives on: {called}" for called in vanished(record.sessions)]
    finally:
        kill([number for session in record.sessions for number in processes(session)])
    for kind in kinds:
        print(
            f"{kind}: {record.done[kind]} faults, {record.late[kind]} of them after the first row"
        )
    done, late = record.done.total(), record.late.total()
    print(
        f"all: {done} faults, {late} of them after the first row; {record.torn} tore a file that was being written"
    )
    for sentence in record.wrong:
        print(f"WRONG: {sentence}")
    if not record.wrong:
        print("no row lost, none twice, all tables equal, no temporary file left, no process left")
        shutil.rmtree(scratch)
    return int(bool(record.wrong))


if __name__ == "__main__":
    sys.exit(main())
