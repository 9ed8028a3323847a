"""The training of one run, in a process of its own, and of several at a time."""
