"""What can be read from a layer: probes, their scores, their controls and their report."""
