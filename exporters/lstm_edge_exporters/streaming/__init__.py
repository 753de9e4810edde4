"""Operators that look along time keep their past in states, so that a network
streams.
"""
