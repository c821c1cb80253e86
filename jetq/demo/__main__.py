"""`python -m jetq.demo`, with the defaults of `jetq demo`."""

import sys

from . import run

sys.exit(run())
