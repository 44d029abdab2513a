"""What happens if a value is changed: edits, scopes, sweeps, attribution."""
