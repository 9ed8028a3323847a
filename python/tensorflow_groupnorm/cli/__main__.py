"""`python -m tensorflow_groupnorm.cli`."""

import sys

from . import main

sys.exit(main())
