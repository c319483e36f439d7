"""Readers of the layouts in which data sets are handed out."""
