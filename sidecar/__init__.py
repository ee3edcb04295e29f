"""Ground floor: what every service of ours stands on (settings, gRPC, telemetry, reload, Redis, errors)."""
