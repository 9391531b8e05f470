"""What the points of several seeds say: paired differences, arms at equal FLOPs, attainment,
likeness, verdicts.
"""
