"""From images to 3D cues to conversations."""
