"""The section `export`: latencies of exported networks in their runtimes."""
