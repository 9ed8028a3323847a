"""The images of a study: their sources, and the arrays that all runs read."""
