"""Run a model on every source of a folder of Parquet files, run after run."""
