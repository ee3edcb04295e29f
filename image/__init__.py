"""The container image, with and without a container engine."""
