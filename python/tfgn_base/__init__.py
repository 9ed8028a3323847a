"""Code that the library and its applications share and that works without TensorFlow.

Importing `tensorflow_groupnorm` imports TensorFlow, which takes seconds. The command checks its
arguments before that, and removes a plugin even if TensorFlow cannot be imported. These modules
import only the standard library and each other.
"""
