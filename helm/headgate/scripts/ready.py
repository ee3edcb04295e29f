"""`helm test`: the pod is ready, and says of both services that they serve. URL: where /readyz is."""

import json
import os
import sys
import urllib.request

with urllib.request.urlopen(os.environ["URL"], timeout=10) as answer:  # noqa: S310
    found = json.load(answer)
print(json.dumps(found))
if not found["ready"] or "ext_proc" not in found["dependencies"]:
    sys.exit(1)
