"""A module per framework, which only its worker imports.

Each has `versions()`, and for a case of `cases.py` `load(case, arrays)`, from NumPy arrays to what
`function(contender, case)` takes; that computes, and `to_numpy(case, outputs)` is for the accuracy.
"""
