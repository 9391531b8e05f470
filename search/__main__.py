"""`python -m prunefront.search` is the command prunefront. The folder where it runs, which -m puts
first, goes last.
"""

import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]  # before anything that is installed is imported; `main` puts it back

from .cli import main

main()
