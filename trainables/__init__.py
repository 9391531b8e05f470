"""Pruning algorithms as trainables: cohorts of networks trained together, and the rows measured
from them.

Only `tuning` imports Ray.
"""
