"""What happens if a value is changed: edits, scopes, sweeps, attribution."""

from unisat.interpret.interventions import metrics

__all__ = ["metrics"]
