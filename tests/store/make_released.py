"""Make ``files/schemaN.db``: a storage as the code of one commit writes it.

``python tests/store/make_released.py COMMIT`` unpacks that commit's own code into a folder, lets it run
two toy studies there (``done``, to its end, and ``half``, stopped on the way), and puts the file, compacted,
where the tests look for it. Run once for each schema, with the first commit that has it; never again.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).resolve().parent / "files"
_WRITE = """
import sys
from tests.search.toy import Recorder, spec, toy
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.store import Repository

url = sys.argv[1]
for name, stop_at in (("done", None), ("half", 9)):
    study = spec(name=name, memory_budget="24%", precisions=(8, 6, 4, 3))
    session = toy(study)
    create_study(study, url, session)

    def on_end(record):
        if record.number == stop_at:
            with Repository(url) as repository:
                repository.request_stop(repository.study(name).uuid)

    print(run_study(name, url, session, listener=Recorder(on_end=on_end)).state)

with Repository(url) as repository:  # since schema 2
    if hasattr(repository, "add_power_device"):
        from qslm_opt.results import PowerDevice, PowerSample, PowerWindow

        study, trial = repository.study("done").uuid, repository.trials("done")[0].uuid
        repository.add_power_device(PowerDevice("lane", study, "host", 7, "cuda:0", started=1.8e9))
        repository.add_power_samples("lane", [PowerSample(1.8e9 + i, 200.0 + i, 2**30) for i in range(30)])
        repository.set_power_window(study, trial, PowerWindow("nvml", 30, 1.0, 215.0, 9.0, 1.0, ended=1.8e9))
    if hasattr(repository, "add_comparison"):  # since schema 3
        from qslm_opt.items import Items
        from qslm_opt.results import Comparison

        items = Items.empty(3, [5, 5, 4])
        items.add([0, 1, 2], [9.5, 8.25, 7.0], None)
        found = Comparison("perplexity", 5.86, 14, windows=3, low=4.0, high=8.0, error=0.5)
        repository.add_comparison(study, "held back", "baseline", found, items)
"""


def main() -> None:
    """Write the file of the commit that is named on the command line."""
    commit = sys.argv[1]
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        code, path = Path(folder) / "code", Path(folder) / "released.db"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(code, filter="data")
        environment = {**os.environ, "PYTHONPATH": str(code)}
        words = [sys.executable, "-c", _WRITE, f"sqlite:///{path}"]
        subprocess.run(words, cwd=code, env=environment, check=True)
        with sqlite3.connect(path) as connection:
            (version,) = connection.execute("SELECT version FROM qslm_schema").fetchone()
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")
        connection.close()
        FILES.mkdir(exist_ok=True)
        shutil.copyfile(path, FILES / f"schema{version}.db")
    print(f"wrote {FILES / f'schema{version}.db'} with the code of {commit}")


if __name__ == "__main__":
    main()
