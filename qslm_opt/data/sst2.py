"""SST-2 (GLUE): is a film-review sentence negative (0) or positive (1)? Metric: accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from qslm_opt.data.rows import HubData, check_texts, read_rows
from qslm_opt.data.taskdata import IDS, Encode, Ids, TaskData, build
from qslm_opt.errors import DataError

HUB = HubData("nyu-mll/glue", "sst2")
LABELS = ("negative", "positive")


def load_sst2(encode: Encode, data_dir: str | None, split: str | None, limit: int | None) -> TaskData:
    """Return sentences in the file's order, each stripped and encoded by itself (872 in ``validation``).

    A sentence that is empty once stripped is encoded as one space.
    """
    split = split or "validation"
    rows = read_rows("sst2", HUB, data_dir, split, ("sentence", "label"))
    sentences = check_texts("sst2", "sentence", rows.columns["sentence"][:limit])
    labels = _labels(rows.columns["label"][:limit], split)
    return build("sst2", split, encode(sentences), source=rows.source, labels=labels, label_names=LABELS)


def _labels(values: list[Any], split: str) -> Ids:
    for row, value in enumerate(values):
        if value not in (0, 1):
            hidden = " (the hub keeps the labels of 'test' hidden)" if value == -1 else ""
            raise DataError(
                f"task sst2: row {row} of split {split!r} has label {value!r}, not 0 or 1{hidden}; "
                "use split 'validation'."
            )
    return np.array(values, dtype=IDS)
