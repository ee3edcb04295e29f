"""The chart against a real Kubernetes API server: `make kube`."""
