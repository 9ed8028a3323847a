"""What the library shares with its applications, and what works without TensorFlow.

The command checks its input and removes a plugin before TensorFlow is imported, or where it cannot
be. `tensorflow_groupnorm/__init__.py` imports TensorFlow, which takes seconds, so what both need
stands here. These modules import the standard library and each other, and nothing else.
"""
