"""`helm test`: the pod is ready, and says of both services that they serve. URL: where /readyz is."""

import json
import os
import sys
import urllib.request

with urllib.request.urlopen(os.environ["URL"], timeout=10) as answer:  # noqa: S310
    found = json.load(answer)
print(json.dumps(found))
services = {name: state for name, state in found["dependencies"].items() if name in ("extproc", "ratelimit")}
if not found["ready"] or not services or set(services.values()) != {"serving"}:
    sys.exit(1)
