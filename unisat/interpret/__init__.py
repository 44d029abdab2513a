"""Look inside a model and change what it computes; see `unisat.interpret.sites` for what there is to see."""
