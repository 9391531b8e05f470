import contextlib


def held(folder):
    return contextlib.nullcontext()
