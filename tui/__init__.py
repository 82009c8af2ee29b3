"""The dashboard of qslm-opt: a read-only view of a study, live or finished.

Imports point inwards: screens → widgets → model → ``qslm_opt.rank`` and the nouns. Nothing here reaches
torch, Optuna or the code that runs a search.
"""
