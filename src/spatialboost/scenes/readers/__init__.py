"""Readers of the layouts in which data sets are handed out: `rgbd` reads a folder with a walk of RGB-D frames."""
