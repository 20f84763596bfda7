"""How good a network is on a labelled split."""
