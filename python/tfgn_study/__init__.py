"""The study: trains one network with each normalization at each batch size and compares."""
