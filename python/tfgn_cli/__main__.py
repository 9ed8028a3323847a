"""`python -m tfgn_cli`."""

import sys

from . import main

sys.exit(main())
