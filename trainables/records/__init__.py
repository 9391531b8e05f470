"""Records: what a run's folder holds of cohorts and networks, and the files that leave it."""
