"""Every folder and file of a study's output folder, by what it holds; no other module knows a path.

It lies here, and not in `trainables`, since `analysis` reads what the other two folders write.
"""

from __future__ import annotations

from .storage import Location, Where, locate

LOCK = "lock"
"""What the one driver of a folder holds."""


def rows(folder: Where) -> Location:
    """The measured rows, a Parquet file for each cohort and rung."""
    return locate(folder) / "rows"


def rows_file(folder: Where, cohort: str, rung: int | str) -> Location:
    """The rows of a cohort at a rung; or, in place of one, at which end."""
    return rows(folder) / f"{cohort}-{rung}.parquet"


def rejected(folder: Where) -> Location:
    """Row files that could not be trusted."""
    return locate(folder) / "rejected"


def plan(folder: Where) -> Location:
    """What is to be trained, and what was decided."""
    return locate(folder) / "plan"


def study_file(folder: Where) -> Location:
    """What the study is, as it was last begun."""
    return plan(folder) / "study.json"


def cohorts_file(folder: Where, generation: int) -> Location:
    """The cohorts of a generation, one a line."""
    return plan(folder) / f"cohorts-{generation:03d}.jsonl"


def cohorts_files(folder: Where) -> list[Location]:
    """The cohorts of every generation so far, in order."""
    paths = plan(folder).glob("cohorts-*.jsonl")
    return sorted(paths, key=lambda path: path.name)


def decision_file(folder: Where, cohort: str, rung: int) -> Location:
    """Who of a cohort does not go on from a rung."""
    return plan(folder) / f"rung-{rung}-{cohort}.json"


def decision_files(folder: Where) -> list[Location]:
    """All decisions so far."""
    return list(plan(folder).glob("rung-*.json"))


def networks(folder: Where) -> Location:
    """The networks that are kept, a file for each cohort or part of one."""
    return locate(folder) / "networks"


def networks_file(folder: Where, name: str) -> Location:
    """The networks of a cohort, or of a part of it."""
    return networks(folder) / f"{name}.safetensors"


def networks_files(folder: Where) -> list[Location]:
    """All files of networks, sorted by name."""
    paths = networks(folder).glob("*.safetensors")
    return sorted(paths, key=str)


def starts(folder: Where) -> Location:
    """Dense networks that cohorts start from."""
    return locate(folder) / "starts"


def states(folder: Where) -> Location:
    """Where cohorts are while they train; gone when all is done."""
    return locate(folder) / "state"


def state_file(folder: Where, cohort: str, part: int, parts: int) -> Location:
    """The state of one part of a cohort in so many parts."""
    return states(folder) / f"{cohort}-{part}-{parts}.safetensors"


def state_files(folder: Where, cohort: str) -> list[Location]:
    """The states of all parts of a cohort, in whatever number of parts."""
    return list(states(folder).glob(f"{cohort}-*.safetensors"))


def parts_file(folder: Where, cohort: str) -> Location:
    """In how many parts a cohort is to be trained."""
    return states(folder) / f"{cohort}-parts.txt"


def pulse_file(folder: Where, cohort: str) -> Location:
    """The last word of a cohort while it trains."""
    return states(folder) / f"{cohort}-pulse.txt"


def next_log_file(folder: Where, cohort: str) -> Location:
    """Where the next traceback of a cohort belongs."""
    log = locate(folder) / "log"
    before = list(log.glob(f"{cohort}-*.txt"))
    return log / f"{cohort}-{1 + len(before)}.txt"


def report(folder: Where) -> Location:
    """The report, and what was compared."""
    return locate(folder) / "report"


def page(folder: Where) -> Location:
    """The report's page."""
    return report(folder) / "report.html"


def latencies(folder: Where) -> Location:
    """Timings of networks, a file for each network and machine."""
    return locate(folder) / "latency"


def picked(folder: Where, member: str) -> Location:
    """What was exported of a member."""
    return locate(folder) / "picked" / member


def drawing_file(folder: Where, member: str) -> Location:
    """The picture of a small network."""
    return locate(folder) / "show" / f"{member}.svg"


def values_file(folder: Where) -> Location:
    """Which studies a folder of swept values holds."""
    return locate(folder) / "values.json"


def across(folder: Where) -> Location:
    """What pruning changes at each value that is swept."""
    return locate(folder) / "across"
