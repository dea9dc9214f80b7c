"""Discovery on LiDAR sweeps: rays instead of pictures, sparse instead of dense."""

from protoscene.lidar.sweeps import discover_sweeps

__all__ = ["discover_sweeps"]
