"""Proposals: drawn from a search space at once, or learnt from rows by Optuna's samplers."""
