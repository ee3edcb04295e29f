"""The fault table: what can go wrong with a provider, and what must come of it. `python -m tests.faults` runs it."""
