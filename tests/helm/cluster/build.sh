#!/usr/bin/env bash
# Builds kube-apiserver into the path that is given. Kubernetes has no module to install: this is one that imports it.
set -euo pipefail
version=$(awk '$2 == "k8s.io/kubernetes" {print $3}' "$(dirname "$0")/apiserver/go.mod")
cd "$(dirname "$0")/apiserver"
v=k8s.io/component-base/version
go build -p "${JOBS:-2}" -trimpath -o "$1" -ldflags \
	"-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$(cut -d. -f2 <<<"$version")" .
