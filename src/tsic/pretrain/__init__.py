"""Pretraining of the promptable segmenter on photographs without labels."""
