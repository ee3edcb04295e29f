"""`helm test`: one chat completion. URL: the gateway, MODEL, KEY; CA: "any" trusts every certificate."""

import json
import os
import ssl
import sys
import urllib.request

context = ssl._create_unverified_context() if os.environ.get("CA") == "any" else None  # noqa: S323
question = {"model": os.environ["MODEL"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
request = urllib.request.Request(  # noqa: S310
    os.environ["URL"] + "/v1/chat/completions",
    json.dumps(question).encode(),
    {"content-type": "application/json", "authorization": "Bearer " + os.environ["KEY"]},
)
with urllib.request.urlopen(request, timeout=60, context=context) as answer:  # noqa: S310
    text = json.load(answer)["choices"][0]["message"]["content"]
    limits = {name: value for name, value in answer.headers.items() if name.lower().startswith("x-ratelimit-")}
print(json.dumps({"answer": text, "limits": limits}))
if os.environ.get("LIMITED") and not limits:
    sys.exit("no rate limit was asked for")
