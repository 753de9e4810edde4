"""Scripts that produce the figures in the docs: one folder for each question."""
