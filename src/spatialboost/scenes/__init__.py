"""From places to 3D cues to conversations.

Open `cues` first: `Cues` is one view with all that is known of it; `scene` puts several views into one frame.

- `sources`: items by number, which is what a build reads; `source_registry` knows them by name.
- `rooms/`: procedural rooms. `readers/`: RGB-D folders. `extract/`: cues that a source does not bring along.
- `questions/`: what is asked about a scene, and the checker that recomputes each answer.
- `dataset/`: rows on disk: schema, writer, reader, and the page that shows them.
- `camera`: pixels and points. `data_command`: `spatialboost data build | show`.
"""
