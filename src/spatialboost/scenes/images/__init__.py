"""Sources of plain photographs: they give views that have an image only; extractors add depth and objects.

Open `folder` first: a folder of image files and tar shards. `table` reads the image column of a data set, and
`photograph` makes a view of the bytes of one image. `listing` finds the images of a folder.
"""
