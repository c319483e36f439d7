"""Procedural rooms with exact geometry: the default source of views. It needs no data.

Open `source` first: `Rooms` is the source that a build reads. `render` makes images, depth maps and masks from seeds.
`sampling` and `furnishing` sample the contents of a room, as the classes in `room`; `viewpoints` adds more cameras.
`raycast` and `shading` are the renderer; `materials` defines the appearance of surfaces.
"""

from spatialboost.scenes.rooms.render import render_rooms, render_scenes, render_views
from spatialboost.scenes.rooms.room import Room, look
from spatialboost.scenes.rooms.sampling import sample_room
from spatialboost.scenes.rooms.source import Rooms

__all__ = ["Room", "Rooms", "look", "render_rooms", "render_scenes", "render_views", "sample_room"]
