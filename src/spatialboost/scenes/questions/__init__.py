"""Questions about a view or a scene, the scoring of replies, and the checks of the answers.

Open `conversation` first: it asks the turns of a `plan` and writes the messages and their `meta`.

- ``kinds/``: one file for kinds of question of one subject (level, wordings, asking, scoring), and a table of all.
- ``checks/``: a check for each kind. It recomputes each answer from `meta` and shares no code with ``kinds/``.
- `checker` runs the checks on a conversation; `scoring` compares a reply with the true answer.
- `plan` has the number of turns of each kind; `asking` draws them; `view`, `layout` and `points` measure one view.
- `wordings` has the wordings of all kinds; `names` chooses names of objects that do not contain the answer.
- `turn` (one question and answer), `phrases` (the format of numbers) and `meta` (the place of facts) are used by all.
"""
