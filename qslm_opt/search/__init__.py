"""The search: which settings are tried, in which order, and what their verdicts mean.

``space`` and ``tiers`` are pure; ``sampler``, ``pruner``, ``ledger`` and ``driver`` speak to Optuna.
Nothing is imported here, so that the pure half loads without Optuna.
"""
