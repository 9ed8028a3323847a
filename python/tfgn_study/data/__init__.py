"""The images: where they come from, as arrays that every run of a study reads."""
