"""The service as a program of its own, by envoyproxy/ratelimit's environment variables."""
