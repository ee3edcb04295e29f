"""Envoy's configuration from `headgate.yaml`. Pure: settings in, JSON-ready values out."""
