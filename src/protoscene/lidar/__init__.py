"""Discovery on LiDAR sweeps: rays instead of pictures, sparse instead of dense."""

from protoscene.lidar.parked import Parked
from protoscene.lidar.sweeps import discover_sweeps

__all__ = ["Parked", "discover_sweeps"]
