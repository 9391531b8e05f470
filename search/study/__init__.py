"""The study file: TOML in, a validated `Study` out, with the baselines and checks that a study is
given.
"""
