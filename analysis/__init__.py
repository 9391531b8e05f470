"""Analysis of the measured rows: fronts, spread over seeds, pictures and reports. Imports neither
torch nor ray.
"""
