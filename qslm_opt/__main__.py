"""``python -m qslm_opt``: the same as ``qslm-opt``."""

import sys

from qslm_opt.cli.main import run

sys.exit(run())
