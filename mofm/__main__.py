"""`python -m mofm`, which is `mofm`."""

import sys

from mofm.cli import main

sys.exit(main())
