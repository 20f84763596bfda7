"""From files to batches: class tables, readers, augmentation, sampling, checks."""
