"""Make 3D cues of views, and conversations about them.

Open `cues` first: `Cues` is one view with its image, depth, camera and objects. `scene` puts several views into one
coordinate frame.

- `sources`: what a build reads: items with an index. `source_registry`: the sources by name.
- `rooms/`: procedural rooms. `readers/`: RGB-D folders. `extract/`: computes cues that a source does not have.
- `questions/`: the questions about a scene, and the checker that recomputes each answer.
- `dataset/`: rows on disk: schema, writer, reader, and an HTML page that shows them.
- `camera`: pixels and points. `data_command`: `spatialboost data build | show`.
"""
