"""Searches: a study file becomes a plan of cohorts, and Ray Tune trains them. Knows no algorithm by name."""

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all members ended, well or diverged; some failed; bad input; stopped, to be carried on."""
