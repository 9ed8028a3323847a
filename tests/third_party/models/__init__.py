"""The models, a file per package, in small: with the structure of the large ones, few channels."""
