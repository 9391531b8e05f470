"""The plan: members grouped into cohorts and written once, and who goes on from a rung."""
