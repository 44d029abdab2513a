"""Features of a corpus with their labels: collect them, keep them, read them as a bank."""
