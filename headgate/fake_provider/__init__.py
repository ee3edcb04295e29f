"""The fake provider: speaks a provider's wire format, and fails, stalls and disconnects on demand.

A tool for tests, demonstrations and benchmarks. Never a code path of the product.
"""
