"""Searches: a study file becomes a plan of cohorts, and Ray Tune trains them. Knows no algorithm by name."""

import os

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all members ended, well or diverged; some failed; bad input; stopped, to be carried on."""

_SOCKET = f"/prunefront-xxxxxxxx/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
LONGEST_TEMPORARY = 107 - len(_SOCKET)
"""Bytes that the path of the temporary folder may have: below it Ray binds sockets, whose paths have at most 107."""
