"""Conversations on disk, as parquet files.

Open `schema` first: columns, version and settings. `writer` builds a data set out of a source, `row` makes one row of
it; `reader` opens rows for training; `viewer` writes a page that shows them.
"""
