"""Check that a built wheel holds what a user needs and nothing else."""

from __future__ import annotations

import sys
from zipfile import ZipFile

WANTED = (
    "qslm_opt/__init__.py",
    "qslm_opt/cli/main.py",
    "qslm_opt/py.typed",
    "qslm_opt/data/demo_model/config.json",
    "qslm_opt/data/demo_model/model.safetensors",
    "qslm_opt/data/demo_model/tokenizer.json",
    "tui/__init__.py",
)
ALLOWED_ROOTS = ("qslm_opt/", "tui/", "qslm_opt-")


def main(path: str) -> int:
    """Print what is missing from or strange in the wheel at ``path``; return the exit status."""
    with ZipFile(path) as wheel:
        sizes = {info.filename: info.file_size for info in wheel.infolist()}
    problems = [f"missing: {name}" for name in WANTED if name not in sizes]
    problems += [f"strange: {name}" for name in sizes if not name.startswith(ALLOWED_ROOTS)]
    problems += [f"empty: {n}" for n in WANTED if n.endswith((".json", ".safetensors")) and sizes.get(n) == 0]
    for problem in problems:
        print(problem)
    print(f"{path}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB unpacked")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
