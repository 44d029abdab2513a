"""Training: targets, batches, the loop, and what is written to the disk."""
