"""Who speaks: verification trials, PLDA, maps of voices."""
