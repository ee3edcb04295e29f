"""RateLimitService (RLS v3): pure matching rules, a limiter, algorithms and their storages."""
