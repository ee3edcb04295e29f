"""`headgate up`: the local supervisor. Starts, watches and stops Envoy and the sidecar."""
