"""Top floor: the command line, the composition root, the local supervisor and the renderers."""

__version__ = "0.1.0"
