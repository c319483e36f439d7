"""Readers of RGB-D folders and of public data sets, one frame at a time.

A `layout.Layout` finds the recordings in a folder; a `recording.Recording` lists the frames of one and says where the
image, depth map, intrinsics and pose of each are; `frames.Frames` reads them as views. `rgbd.py` has the layout of a
user's own folder, `sets/` those of public sets. `options.py` has what a user may say; `intrinsics.py`, `poses.py`,
`decode.py`, `matching.py`, `annotations.py` and `colmap_model.py` read the forms in which files are written;
`plausibility.py` compares depth, intrinsics and poses. Open `rgbd.py` first.
"""
