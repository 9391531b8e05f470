"""Searches: a study file becomes a plan of cohorts, and Ray Tune trains them. Knows no algorithm by name."""
