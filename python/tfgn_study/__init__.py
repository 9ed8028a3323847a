"""Trains one small network with each normalization at each batch size, and compares."""
