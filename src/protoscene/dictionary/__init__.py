"""One dictionary: what is alike shares a prototype, and everything alike is found again."""

from protoscene.dictionary.find_again import MOST_CELLS, Found, find_again
from protoscene.dictionary.merge import Merged, merge
from protoscene.dictionary.portrait import Portrait
from protoscene.dictionary.share import Kind, alone, share
from protoscene.dictionary.vacate import vacated

__all__ = [
    "MOST_CELLS",
    "Found",
    "Kind",
    "Merged",
    "Portrait",
    "alone",
    "find_again",
    "merge",
    "share",
    "vacated",
]
