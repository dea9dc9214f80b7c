"""Scenes in the formats of other tools: GLB, PLY, KITTI labels, and recordings with masks."""
