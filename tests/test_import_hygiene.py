"""What importing loads, seen in a fresh interpreter: the run-time twin of the import contracts.

Static contracts see every import statement; only a run shows that a deferred one stays deferred.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "datasets", "numba", "pandas", "pyarrow", "triton", "tokenizers"}
NOUNS = (
    "qslm_opt", "qslm_opt.errors", "qslm_opt.formats", "qslm_opt.setting", "qslm_opt.spec",
    "qslm_opt.results", "qslm_opt.stats",
    "qslm_opt.hierarchy.tree", "qslm_opt.evaluate.bounds", "qslm_opt.evaluate.memory",
)  # fmt: skip


def modules_of(*parts: str) -> list[str]:
    """Every module of a package (or the module itself), as the files say."""
    base = ROOT.joinpath(*parts)
    files = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    names = (".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files)
    return [name.removesuffix(".__init__") for name in names]


def loaded_by(modules: list[str]) -> set[str]:
    """Names in ``sys.modules`` after importing ``modules`` in an interpreter of its own."""
    code = (
        "import sys, json, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (list(NOUNS), {*HEAVY, "numpy", "optuna", "textual", "sqlalchemy", "typer", "pynvml"}),
        (modules_of("qslm_opt", "rank"), {*HEAVY, "optuna", "textual", "sqlalchemy", "typer"}),
        (modules_of("qslm_opt", "measure"), {*HEAVY, "numpy", "optuna", "textual", "sqlalchemy", "pynvml"}),
        (modules_of("qslm_opt", "store"), {*HEAVY, "optuna", "textual"}),
        (modules_of("qslm_opt", "cli"), {*HEAVY, "optuna", "textual", "tui", "optuna_dashboard"}),
        (modules_of("qslm_opt", "search", "tiers"), {*HEAVY, "optuna", "sqlalchemy"}),
        (modules_of("qslm_opt", "search", "space"), {*HEAVY, "optuna", "sqlalchemy"}),
        (modules_of("tui"), {*HEAVY, "optuna", "qslm_opt.search", "qslm_opt.pipeline", "qslm_opt.models"}),
    ],
    ids=["nouns", "rank", "measure", "store", "cli", "tiers", "space", "tui"],
)
def test_importing_loads_nothing_heavy(modules, forbidden):
    assert modules
    assert loaded_by(modules) & forbidden == set()


@pytest.mark.parametrize("arguments", [["--help"], ["study", "--help"], ["--version"]])
def test_the_command_line_answers_without_torch_or_optuna(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['qslm-opt', *{arguments!r}]\n"
        "from qslm_opt.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('LOADED', sorted(set(sys.modules) & {HEAVY | {'optuna', 'textual'}!r}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "LOADED []"
    assert "\x1b[" not in run.stdout


# ------------------------------------------------------------------------------------- dependencies


def imports_of(package: str) -> dict[str, list[str]]:
    """Third-party top-level modules that a package's files import, with the files."""
    found: dict[str, list[str]] = {}
    own = {"qslm_opt", "tui"}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - own - sys.stdlib_module_names:
                found.setdefault(top, []).append(str(path.relative_to(ROOT)))
    return found


def declared() -> set[str]:
    """Distributions that pyproject.toml names for users (dependencies and extras without dev)."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    users = text[text.index("dependencies = [") : text.index("\ndev = [")]
    return {re.split(r"[\[<>=;]", name)[0].lower() for name in re.findall(r'^  "([^"]+)"', users, re.M)}


COMES_WITH = {
    "triton": "torch, where there is a GPU; every import of it is guarded",
    "llvmlite": "numba, which needs exactly its own version of it",
    "tomllib": "Python 3.11; older ones take tomli",
}


def test_every_third_party_import_is_a_declared_dependency():
    distributions = packages_distributions() | {
        "pynvml": ["nvidia-ml-py"], "tomli": ["tomli"], "grpc": ["grpcio"]
    }  # fmt: skip
    undeclared = {
        module: files
        for package in ("qslm_opt", "tui")
        for module, files in imports_of(package).items()
        if module not in COMES_WITH
        and not {d.lower().replace("_", "-") for d in distributions.get(module, [module])} & declared()
    }
    assert undeclared == {}


def test_the_makefile_and_pyproject_name_the_same_versions():
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8").replace("'", '"')
    makefile = (ROOT / "Makefile").read_text("utf-8")
    light = re.findall(r"'([a-z-]+[<>=][^';]+)'", makefile.partition("NOUN_DEPENDENCIES :=")[2])
    assert len(light) >= 7
    assert [requirement for requirement in light if f'"{requirement}"' not in pyproject] == []
