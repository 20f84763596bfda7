"""Pretraining of a promptable segmenter on regions: drawn, proposed in photographs, or labelled."""
