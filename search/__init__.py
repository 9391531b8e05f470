"""Searches: a study file becomes a plan of cohorts, and Ray Tune trains them. Knows no algorithm by
name.
"""

import os

DONE, FAILED, BAD_INPUT, WRONG, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 70, 130
"""Exit codes: all members ended, well or diverged; some failed; a user's mistake; a network that is
not the one that was measured; a fault of ours; stopped, to be carried on."""

_SESSION = f"session_2000-01-01_00-00-00_000000_{os.getpid()}"
_SOCKET = f"/prunefront-xxxxxxxx/ray/{_SESSION}/sockets/plasma_store"
LONGEST_TEMPORARY = 107 - len(_SOCKET)
"""Bytes that the path of the temporary folder may have: below it Ray binds sockets, whose paths
have at most 107.
"""

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",  # workers keep freed stacks for the next step
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "PL_DISABLE_FORK": "1",  # as Tune itself sets it for each trial
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `interrupts` has it
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the hand-out knows how many there may be
}
"""Ray's, which it reads when it is imported and hands on to its workers: set here, since a user's
own module may import it.
"""
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
