"""Label PNGs, overlays, probabilities and videos from a model, file after file."""
