"""Scoring Parquet data sets of many series, in one process or on a cluster with Ray Data. No torch."""
