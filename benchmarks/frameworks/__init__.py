"""One module per framework, imported only by its worker.

Each module has these functions, for the cases of `cases.py`:

- `versions()` returns the versions to report.
- `load(case, arrays)` converts NumPy arrays to the inputs of the computation.
- `function(contender, case)` returns the computation.
- `to_numpy(case, outputs)` converts its outputs to NumPy arrays.
"""
