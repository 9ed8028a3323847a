"""Models that others wrote, converted, trained, saved, loaded and exported.

    test_third_party -> check -> oracle, walk, load -> cases -> models/

- `models/`: the models, a file per package. A package is imported only where a model is built.
- `cases`: what is said of a model besides how it is built.
- `check`: takes one model through all the steps, in a process of its own.
- `oracle`: what a converted model has to compute, from the original and stock ops.
- `walk`: the layers that can be reached from a model, those in plain Python objects included.
- `load`: a fresh process that knows only a file and the names of the packages.
"""
