"""Data: one reader of files with series of samples, their split, and the recordings of
the demo.
"""
