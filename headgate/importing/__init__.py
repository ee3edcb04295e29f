"""Configurations of other gateways, read into ours. Pure: text in, text and a report out."""
