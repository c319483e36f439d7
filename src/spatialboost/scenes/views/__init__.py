"""Choose which frames of a walk become the views of one scene.

Open `choosing` first: `ChosenViews` makes scenes of 2, 4 or 8 frames. `measures` has the two measures of how much two
frames differ: by the points that both of them see, and by LPIPS. `mix` draws the number of views of each item.
"""
