"""Run a model on every series of a Parquet data set of any size."""
