"""Placing workers on a Ray cluster; the test with a real local Ray is skipped where Ray is not installed."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest

from qslm_opt.cli import launchers
from qslm_opt.cli.main import run
from qslm_opt.errors import UsageError
from qslm_opt.store import Repository

FLAGS = (
    "--model", "demo", "--task", "demo", "--device", "cpu", "--max-increase", "10%", "--memory-budget", "12%",
    "--limit", "1", "--precisions", "6,3", "--sensitivity-precisions", "3",
)  # fmt: skip


def test_a_file_is_for_one_host_and_a_server_for_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launchers.shared_url("sqlite:///q.db", 1) == f"sqlite:///{tmp_path}/q.db"
    for url in ("postgresql+psycopg://u@h/d", "grpc://h:1"):
        assert launchers.shared_url(url, 5) == url
    with pytest.raises(UsageError, match="the Ray cluster has 2 hosts; give a postgresql:// or grpc://"):
        launchers.shared_url("sqlite:///q.db", 2)


@pytest.mark.parametrize(
    ("resources", "workers", "cpus", "gpus"),
    [({"CPU": 8.0}, 2, 4, 0), ({"CPU": 2.0}, 4, 1, 0), ({"CPU": 64.0, "GPU": 8.0}, 8, 8, 1), ({}, 1, 1, 0)],
)
def test_a_worker_has_a_gpu_where_there_are_any_and_its_part_of_the_cpus(resources, workers, cpus, gpus):
    assert launchers.share_of(resources, workers) == {"num_cpus": cpus, "num_gpus": gpus}


def test_without_ray_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    url = f"sqlite:///{tmp_path}/q.db"
    assert run(["study", "create", "r", *FLAGS, "--launcher", "ray", "--storage", url]) == 2
    assert "pip install 'qslm-opt[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "q.db").exists()
    assert run(["study", "create", "r", *FLAGS, "--launcher", "ray", "--no-run", "--storage", url]) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_on_a_local_ray_find_what_one_worker_does(tmp_path, capsys):
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'qslm-opt[ray]'")
    found = []
    for words in (("--workers", "1"), ("--workers", "2", "--launcher", "ray")):
        url = f"sqlite:///{tmp_path}/{len(words)}.db"
        create = ("study", "create", "r", *FLAGS, *words, "--progress", "none", "--storage", url, "--json")
        assert run(create) == 0
        rows = json.loads(capsys.readouterr().out)["candidates"]
        found.append([(row["digest"], row["value"]) for row in rows])
        with Repository(url) as repository:
            assert repository.study("r").state == "finished"
    assert found[0] == found[1]
    assert found[0]
