"""Uncertainty and error rates, each written once: intervals, detection errors, information, shuffles, scaling."""
