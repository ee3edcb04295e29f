"""The chart: rendered by real Helm clients, checked against Kubernetes' schemas and, where there is one, a real API server."""
