"""What a user did wrong, apart from what is wrong with the program."""

from __future__ import annotations


class Mistake(ValueError):
    """Something that a user can put right: its text is one sentence, and a command ends with it and
    exit code 2.

    Every other exception is a fault of ours, and keeps its traceback.
    """


class Wrong(Exception):
    """A network that would leave is not the one that was measured, and nothing was written.

    Its text is one sentence, and a command ends with it and exit code 3.
    """


def raised(error: BaseException) -> str:
    """An exception on one line: its type, and the first line of what it says, with dots where there
    were more.
    """
    kind = type(error).__name__
    text = str(error).strip()
    lines = text.splitlines()
    if not lines:
        return kind
    rest = ""
    if len(lines) > 1:
        rest = " ..."
    return f"{kind}: {lines[0]}{rest}"
