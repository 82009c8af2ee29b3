"""``python -m qslm_opt.train``: ``qslm-opt model train`` where the command line is not installed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from qslm_opt.errors import QslmError
from qslm_opt.train.config import TrainConfig

_TYPES = {"steps": int, "minutes": float}


def main(arguments: list[str] | None = None) -> int:
    """Train as the flags say; one flag per field of TrainConfig. Returns the exit code."""
    parser = argparse.ArgumentParser("qslm_opt.train", description="Train a small SpikeGPT from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be new or empty")
    for f in fields(TrainConfig):
        flag = f"--{f.name.replace('_', '-')}"
        if isinstance(f.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=f.default)
        else:
            parser.add_argument(flag, type=_TYPES.get(f.name, type(f.default)), default=f.default)
    flags = vars(parser.parse_args(arguments))
    out = flags.pop("out")
    try:
        config = TrainConfig(**flags)
        from qslm_opt.train.loop import train

        train(config, out, _narrate)
    except QslmError as error:
        _narrate(f"error: {error}")
        return error.exit_code
    return 0


def _narrate(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
