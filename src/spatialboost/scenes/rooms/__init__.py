"""Procedural rooms with exact geometry: the embedded default source of views.

Open `source` first: `Rooms` is what a build reads. `render` makes pictures, depth maps and masks from seeds; `sampling`
and `furnishing` draw what is in a room, out of the parts that `room` names; `viewpoints` places further cameras.
`raycast` and `shading` are the renderer, `materials` and `colours` the looks.
"""

from spatialboost.scenes.rooms.render import render_rooms, render_scenes, render_views
from spatialboost.scenes.rooms.room import Room, look
from spatialboost.scenes.rooms.sampling import sample_room
from spatialboost.scenes.rooms.source import Rooms

__all__ = ["Room", "Rooms", "look", "render_rooms", "render_scenes", "render_views", "sample_room"]
