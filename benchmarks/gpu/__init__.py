"""The CUDA kernels alone, on a GPU: `python -m benchmarks.gpu --help`."""
