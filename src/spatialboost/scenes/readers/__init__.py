"""Readers of data set formats: `rgbd` reads a folder with a sequence of RGB-D frames."""
