"""How layers and models compare: similarity, subspaces, directions, analogies, weights, sums, layers over time."""

from unisat.deprecation import moved

# this room was a module once
__getattr__ = moved(__name__, "unisat.interpret.layers.over_time")
