"""RLQS: the same rules served as quotas, which Envoy enforces itself (docs/ratelimit.md, "Quotas")."""
