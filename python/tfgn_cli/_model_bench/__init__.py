"""`tfgn bench MODEL`: the cost of a model as it is, converted, and converted to save memory.

`run` measures in worker processes, so that TensorFlow is imported there alone: `worker` serves in
them, `models` loads and checks the model, and `steps` trains and runs it.
"""
