"""What a study found out, as tables, plots and a page."""
