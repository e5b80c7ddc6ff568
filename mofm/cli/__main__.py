"""`python -m mofm.cli`, where no console script is installed."""

import sys

from mofm.cli import main

if __name__ == "__main__":
    sys.exit(main())
