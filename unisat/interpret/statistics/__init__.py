"""How sure a number is: intervals, error rates, floors of shuffled labels, scaling."""
