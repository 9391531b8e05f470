"""Training: the loop that steps the networks of a cohort together."""
