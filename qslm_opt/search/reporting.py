"""What a study says about data that its search never saw, and what it compared on the data that it did.

Held-back evaluations are no trials: they count for no tier and no budget of evaluations. Each is stored when
it ends, under its setting's digest, so that a run that is stopped or killed goes on where it was; with
several workers each begins elsewhere, and what is stored first holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast

from qslm_opt.errors import NumericsError, StoppedError
from qslm_opt.evaluate.comparing import alone, compared, unmeasured
from qslm_opt.figures import metric_value
from qslm_opt.rank import to_confirm
from qslm_opt.results import Baseline, Evaluation
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.store.held_back import BASELINE
from qslm_opt.store.rows import own_process

if TYPE_CHECKING:
    from qslm_opt.results import Comparison, TrialRecord
    from qslm_opt.search.attempt import SessionLike
    from qslm_opt.search.outcome import Outcome
    from qslm_opt.search.stopping import Stops
    from qslm_opt.search.tiers import Proposal
    from qslm_opt.store import Repository, StudyRow


class Holding(Protocol):
    """What this module needs of a session, besides ``SessionLike``, where the spec holds data back."""

    def evaluate_held_back(
        self, setting: QuantSetting, *, stop: Callable[[], bool] = lambda: False
    ) -> Evaluation:
        """Evaluate one setting, with its items, on the data that the search never sees.

        ``stop`` is asked after every step of a tuning; StoppedError when it says so.
        """


def due(row: StudyRow, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the candidates of a finished study that are still to be measured on its held-back data."""
    if not row.spec.reports:
        return []
    chosen = to_confirm(trials, row.spec.metric, row.spec.lam)
    return [record for record in chosen if record.digest not in row.held_back]


class Reporting:
    """Compares settings with the unquantized model, item by item, and stores that."""

    def __init__(
        self,
        row: StudyRow,
        repository: Repository,
        session: SessionLike,
        stops: Stops,
        narrate: Callable[[str], None],
    ) -> None:
        self._row, self._repository, self._session = row, repository, session
        self._stops, self._interrupts, self._narrate = stops, stops.interrupts, narrate
        self._searched: Baseline | None = None
        self._held: Baseline | None = None

    # --------------------------------------------------------------------------- searched data

    def keep_baseline(self, baseline: Baseline) -> None:
        """Store the items of a baseline that was measured; before itself, so that none is without."""
        if baseline.items is not None:
            run = _run_of(baseline)
            self._repository.add_comparison(
                self._row.uuid, "searched", BASELINE, alone(run), baseline.items
            )

    def with_items(self, baseline: Baseline) -> Baseline:
        """Return the stored baseline with its items, where the study compares; another process's maybe.

        Items that are not stored are measured anew.
        """
        if not self._row.spec.compares:
            return baseline
        items = self._repository.items(self._row.uuid, "searched", BASELINE)
        if items is None:
            with self._interrupts.exposed():
                measured = self._session.baseline()
            self.keep_baseline(measured)
            items = measured.items
        self._searched = replace(baseline, items=items)
        return self._searched

    def keep(self, proposal: Proposal, run: Evaluation, outcome: Outcome) -> None:
        """Store a candidate's comparison on the data that is searched on."""
        base, slack = self._searched, outcome.constraints.values()
        if base is None or run.value is None or run.items is None or not run.items.complete:
            return
        if slack and all(value <= 0 for value in slack):
            found = compared(run, self._row.spec, base)
            self._repository.add_comparison(self._row.uuid, "searched", proposal.digest, found, run.items)

    # --------------------------------------------------------------------------- held-back data

    def complete(self, trials: Sequence[TrialRecord]) -> bool:
        """Measure what ``due`` names; return False when a stop was requested meanwhile.

        KeyboardInterrupt comes out of a running evaluation alone: what has ended is stored.
        """
        records = due(self._row, trials)
        if not records:
            return True
        turn = own_process()[0] % len(records)
        for record in (*records[turn:], *records[:turn]):
            if self._stops.asked():
                return False
            if record.digest not in self._stored():
                try:
                    self._measure(record)
                except StoppedError:
                    return False
        return True

    def _run(self, setting: QuantSetting) -> Evaluation:
        how = {"stop": self._stops.watch()} if setting.tune else {}
        with self._interrupts.exposed():
            return cast("Holding", self._session).evaluate_held_back(setting, **how)

    def _stored(self) -> dict[str, Comparison]:
        return self._repository.comparisons(self._row.uuid, "held back")

    def _measure(self, record: TrialRecord) -> None:
        baseline = self._held_baseline()
        try:
            run = self._run(QuantSetting.from_json(record.setting))
        except NumericsError as error:
            found = unmeasured(self._stored()[BASELINE], self._row.spec, str(error))
            self._repository.add_comparison(self._row.uuid, "held back", record.digest, found, None)
        else:
            found = compared(run, self._row.spec, baseline, self._split)
            self._repository.add_comparison(self._row.uuid, "held back", record.digest, found, run.items)
        self._narrate(f"held-back data: trial {record.number}: {_words(found)}")

    def _held_baseline(self) -> Baseline:
        """Return the unquantized model's result on the held-back data, stored or measured now."""
        if self._held is None:
            items = self._repository.items(self._row.uuid, "held back", BASELINE)
            known = self._stored().get(BASELINE)
            if known is None or items is None:
                run = self._run(UNQUANTIZED)
                known, items = alone(run, self._split), run.items
                self._repository.add_comparison(self._row.uuid, "held back", BASELINE, known, items)
            assert known.value is not None
            self._held = Baseline(
                "accuracy" if known.metric == "accuracy" else "perplexity", known.value, known.n,
                known.correct, 0.0, 0, items=items,
            )  # fmt: skip
            self._narrate(f"held-back data: unquantized model: {_words(known)}")
        return self._held

    @property
    def _split(self) -> str:
        return self._row.spec.report_split or ""


def _run_of(baseline: Baseline) -> Evaluation:
    return replace(Evaluation.from_json(baseline.evaluation), items=baseline.items)


def _words(found: Comparison) -> str:
    """Return a comparison in a line."""
    if found.value is None:
        return found.reason
    value = f"{found.metric} {metric_value(found.metric, found.value)}"
    if found.low is not None and found.high is not None:
        value += f" ({100 * found.level:g} % interval {metric_value(found.metric, found.low)} to "
        value += f"{metric_value(found.metric, found.high)})"
    if found.change is None or found.p is None:
        return value
    unit = f"{100 * found.change:+.2f} {'pp' if found.metric == 'accuracy' else '%'}"
    return f"{value}, {unit} against the unquantized model, p = {found.p:.2g}"
