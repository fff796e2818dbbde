"""The figures and the page of an evaluation report."""
