"""Texts of language models about views: captions, and common, adversarial and multi-choice questions with answers.

Open `prompts` first: everything that a model is asked. `requests` makes the requests for a batch of views, and turns
the replies into facts of the views: every statement about geometry is compared with the layout, and dropped if it is
not true. `endpoint` asks a server with the API of OpenAI (`answers` stores what it said and what it cost), and `local`
runs a model of transformers here.
"""
