"""The pictures and the page that show an evaluation."""
