"""The report of a study: tables, plots and a page."""
