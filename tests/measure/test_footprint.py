"""The memory of this process: what is touched shows in the peak, also after it is gone."""

from __future__ import annotations

import mmap

from qslm_opt.measure import footprint
from qslm_opt.measure.footprint import Watch, peak_bytes, resident_bytes

BIG = 64 * 2**20


def test_a_peak_is_what_was_held_at_most():
    """The pages are mapped: an allocator may hand out freed pages that are still resident."""
    watch = Watch()
    with mmap.mmap(-1, BIG) as block:
        for start in range(0, BIG, mmap.PAGESIZE):
            block[start] = 1
    peak = watch.peak()
    assert peak.bytes >= 0.9 * BIG or peak.source.startswith("growth")
    assert peak_bytes() >= resident_bytes() > 0


def test_without_the_kernels_help_the_highest_mark_is_what_grows(monkeypatch, tmp_path):
    monkeypatch.setattr(footprint, "_CLEAR", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(footprint, "_STATUS", tmp_path / "none" / "status")
    watch = Watch()
    peak = watch.peak()
    assert peak.source == "growth of ru_maxrss"
    assert 0 <= peak.bytes < BIG
    assert resident_bytes() == peak_bytes() > 0
