"""`helm test`: both gRPC services say that they serve. TARGETS: name=host:port, by commas; CERTS: folder, or empty."""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

folder = os.environ.get("CERTS", "")
for entry in os.environ["TARGETS"].split(","):
    name, _, target = entry.partition("=")
    if folder:
        ca, key, cert = ((Path(folder) / one).read_bytes() for one in ("ca.crt", "tls.key", "tls.crt"))
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert))
    else:
        channel = grpc.insecure_channel(target)
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{name} at {target}: {status}")
    if status != "SERVING":
        sys.exit(1)
