"""Procedural rooms with exact geometry: the embedded default source of views."""
