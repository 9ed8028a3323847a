"""The training of runs, each in a process of its own, several at a time."""
