"""prunefront: searches for small, accurate networks on Ray Tune; every figure comes from a measured
row.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
if not (_HERE / "search").is_dir():  # a checkout, where the three folders lie beside this one
    __path__.append(str(_HERE.parent))
