"""Train a small segmentation network in a cycle with a prompted foundation model."""
