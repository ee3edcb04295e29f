"""Benchmarks: arms measured side by side in one run, interleaved, medians of rounds."""
