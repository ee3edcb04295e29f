"""ExternalProcessor: one decision per request, in the request phase only."""
