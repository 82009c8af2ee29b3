"""Tuning: codes, scales and vectors of one setting learn what the unquantized model computes.

A quantizer looks at one matrix at a time. Here all of them move together, by gradients of the distance
between the two models' predictions on calibration text; formats, hence bytes, stay what the setting says.
"""

from __future__ import annotations

from qslm_opt.tune.config import TuneConfig, TuneReport

__all__ = ["TuneConfig", "TuneReport"]
