"""Algorithms: how hits become a verdict. Each states its weakness."""
