"""The ground floor: audio files become waveforms, waveforms become log-mel.

Knows torch, numpy and the audio libraries, and no model, no method and no trainer.
"""
