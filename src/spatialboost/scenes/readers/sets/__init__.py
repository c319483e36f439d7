"""Layouts in which public data sets are handed out: one file each, and one line in `source_registry.SOURCES`.

A file has a subclass of `recording.Recording`, which lists the frames of a recording and says where the parts of each
are, and a `layout.Layout`. Open `seven_scenes.py` first.
"""
