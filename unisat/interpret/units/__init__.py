"""Discrete units: codebook usage, clusters, lenses on them, perplexity."""

from unisat.deprecation import moved

# this room was a module once
__getattr__ = moved(__name__, "unisat.interpret.units.clusters")
