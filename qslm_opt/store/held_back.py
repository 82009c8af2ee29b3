"""Comparisons in the storage: settings beside the unquantized model, on searched and on held-back data."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from qslm_opt.results import Comparison
from qslm_opt.store.tables import COMPARISON

if TYPE_CHECKING:
    from qslm_opt.items import Items

Part = Literal["searched", "held back"]
BASELINE = "baseline"
"""Stands for a digest where the unquantized model is meant."""


class ComparisonRecords:
    """The part of a Repository that keeps comparisons and the items they were made of."""

    def _read(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def _write(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def comparisons(self, study_uuid: str, part: Part) -> dict[str, Comparison]:
        """Return digest → comparison on one part of a study's data, ``BASELINE`` among the digests."""
        with self._read() as connection:
            return read_comparisons(connection, [study_uuid], part)[study_uuid]

    def items(self, study_uuid: str, part: Part, digest: str) -> Items | None:
        """Return the outcomes behind a comparison, None where there are none."""
        from qslm_opt.items import Items

        c = COMPARISON.c
        which = (c.study_uuid == study_uuid) & (c.part == part) & (c.digest == digest)
        with self._read() as connection:
            value = connection.execute(select(c["items"]).where(which)).scalar()
        return None if value is None else Items.from_json(value)

    def add_comparison(
        self, study_uuid: str, part: Part, digest: str, comparison: Comparison, items: Items | None
    ) -> None:
        """Store a comparison; one that is there already stays, whoever stored it."""
        key = {"study_uuid": study_uuid, "part": part, "digest": digest}
        values = {
            **key, "ended": time.time(), "measured": comparison.to_json(),
            "items": None if items is None else items.to_json(),
        }  # fmt: skip
        same = [COMPARISON.c[name] == value for name, value in key.items()]
        with self._write() as connection:
            if connection.execute(select(COMPARISON.c.ended).where(*same)).first() is not None:
                return
            try:
                with connection.begin_nested():
                    connection.execute(insert(COMPARISON).values(values))
            except IntegrityError:  # another worker stored it between our look and our write
                return


def read_comparisons(
    connection: Connection, study_uuids: Sequence[str], part: Part
) -> dict[str, dict[str, Comparison]]:
    """Return study uuid → digest → comparison."""
    c = COMPARISON.c
    query = select(c.study_uuid, c.digest, c.measured).where(c.study_uuid.in_(study_uuids), c.part == part)
    found: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for uuid, digest, measured in connection.execute(query.order_by(c.ended, c.digest)):
        found[uuid][digest] = Comparison.from_json(measured)
    return found


def delete_comparisons(connection: Connection, study_uuids: Sequence[str]) -> None:
    """Delete all comparisons of these studies."""
    connection.execute(delete(COMPARISON).where(COMPARISON.c.study_uuid.in_(study_uuids)))
