"""Synthetic recordings with their truth, drawn by MuJoCo (extra ``sim``)."""

from protoscene.synth.settings import SynthSettings
from protoscene.synth.suite import DEMO, NAMED, SUITE, TINY
from protoscene.synth.write import write_recording

__all__ = ["DEMO", "NAMED", "SUITE", "TINY", "SynthSettings", "write_recording"]
