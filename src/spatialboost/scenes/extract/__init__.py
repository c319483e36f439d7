"""Cues that a source does not bring along, estimated from what it has."""
