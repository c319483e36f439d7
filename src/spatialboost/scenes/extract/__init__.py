"""Cues that a source does not bring along, estimated from what it has.

Open `protocol` first: what an extractor is given and what it gives. `registry` knows them by name, `pipeline` lets them
work on a source. The first one is in `segments`: objects from colour and depth, with `merging` (superpixels and how
they merge), `surfaces` (normals, creases, the floor and the walls) and `wording` (what to call a thing).
"""
