"""What is asked about a view or a scene, how answers are scored, and what checks them.

Open `conversation` first: it asks the turns of a `plan` and writes the messages and their `meta`.

- ``kinds/``: one file a kind of question (level, wordings, how it is asked and scored), and the table of all kinds.
- ``checks/``: one file a kind again, which recomputes each answer from `meta` and shares no code with the asking.
- `checker` runs the checks over a conversation; `scoring` says how a reply is compared with the true answer.
- `plan` says how many turns of which kind; `asking` draws them; `view`, `layout` and `points` measure one view.
- `turn`, `phrases` and `meta` are what all of these share: one turn, how numbers are written, where facts stand.
"""
