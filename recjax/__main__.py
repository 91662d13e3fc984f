"""`python -m recjax` is `recjax`."""

import sys

from recjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
