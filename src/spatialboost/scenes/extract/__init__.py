"""Extractors: they estimate cues that a source does not have from the cues that it has.

Open `protocol` first: the input and output of an extractor. `registry` has the extractors by name, and `pipeline`
applies them to a source. The extractor in `segments` finds objects from colour and depth. It uses `merging`
(superpixels and how they merge), `surfaces` (normals, creases, floor and walls) and `wording` (names of objects).
"""
