"""What `tfgn check` looks at.

- `findings`: the result of one check.
- `shared_objects`: reads ELF files, and says what a library of this package must link.
- `installation`: checks files and versions. Does not import TensorFlow.
- `ops`: checks that the libraries load, and what the ops compute; `limits`: how exact that must be.
- `calls`: loads the libraries and calls every op, in a process of its own, which may crash.
"""
