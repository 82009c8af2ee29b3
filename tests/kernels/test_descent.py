"""Codes chosen one column after another, against the same in plain numpy and float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from qslm_opt.kernels.descent import cpu

GRIDS = {"ternary": (-1, 1, 1, 0), "midrise": (0, 3, 2, -3), "affine": (0, 7, 1, 0)}


def problem(grid: str, rows: int = 5, columns: int = 24):
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    inputs = rng.normal(size=(200, columns)) @ rng.normal(size=(columns, columns))
    h = (inputs.T @ inputs / 200 + np.eye(columns)).astype(np.float32)
    scale = np.full((rows, columns), 0.4, np.float32)
    zero = np.full((rows, columns), 3.0 if grid == "affine" else 0.0, np.float32)
    return weight, h, scale, zero, np.array(GRIDS[grid], np.float32)


def nearest(value, scale, zero, grid):
    low, high, factor, shift = grid
    return np.clip(np.rint((value / scale + zero - shift) / factor), low, high)


def weight_of(codes, scale, zero, grid):
    return (codes * grid[2] + grid[3] - zero) * scale


def cost(weight, codes, h, scale, zero, grid):
    error = weight - weight_of(codes, scale, zero, grid)
    return ((error @ h) * error).sum(1)


@pytest.mark.parametrize("name", GRIDS)
def test_feedback_rounds_what_earlier_errors_left(name):
    weight, h, scale, zero, grid = problem(name)
    upper = np.linalg.cholesky(np.linalg.inv(h.astype(np.float64))).T
    codes = np.empty_like(weight)
    cpu.feedback(weight, np.ascontiguousarray(upper, np.float32), scale, zero, grid, codes)
    for row, got, s, z in zip(weight, codes, scale, zero, strict=True):
        left = row.astype(np.float64)
        for j in range(len(left)):
            code = nearest(left[j], s[j], z[j], grid)
            assert abs(got[j] - code) <= (abs((left[j] / s[j]) % 1 - 0.5) < 1e-3)  # ties may fall otherwise
            off = (left[j] - weight_of(got[j], s[j], z[j], grid)) / upper[j, j]
            left[j + 1 :] -= off * upper[j, j + 1 :]


@pytest.mark.parametrize("name", GRIDS)
def test_descent_ends_where_no_single_code_can_be_better(name):
    weight, h, scale, zero, grid = problem(name)
    codes = nearest(weight, scale, zero, grid).astype(np.float32)
    costs = [cost(weight, codes, h, scale, zero, grid)]
    for _ in range(50):
        pull = ((weight - weight_of(codes, scale, zero, grid)) @ h).astype(np.float32)
        changed = np.zeros(len(weight), np.int64)
        before = codes.copy()
        cpu.descend(pull, h, scale, zero, grid, codes, changed)
        costs.append(cost(weight, codes, h, scale, zero, grid))
        assert ((codes != before).sum(1) <= changed).all() and (costs[-1] <= costs[-2] * (1 + 1e-5)).all()
        if not changed.any():
            break
    assert not changed.any() and costs[-1].sum() < costs[0].sum()
    for j in range(codes.shape[1]):
        for step in (-1, 1):
            other = codes.copy()
            other[:, j] = np.clip(other[:, j] + step, grid[0], grid[1])
            assert (cost(weight, other, h, scale, zero, grid) >= costs[-1] * (1 - 1e-5)).all()
