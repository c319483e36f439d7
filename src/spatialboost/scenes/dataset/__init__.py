"""Data sets of conversations, stored as parquet files.

Open `schema` first: columns, version and settings. `writer` builds a data set from a source, and `row` makes one row.
`reader` opens rows for training. `viewer` writes an HTML page that shows them.
"""
