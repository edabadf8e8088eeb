#!/bin/bash
# Certificate authorities for builds, uv and the manager: one file, .local/ca/bundle.crt.
#
# Containers do not know the authorities that this machine trusts, such as those of a company's proxy, and then PyPI and
# crates.io fail with CERTIFICATE_VERIFY_FAILED. OCTOPUS_CA_BUNDLE names the file to use (PEM); by default it is the
# machine's own bundle. Where there is none, the file is empty and everybody uses the authorities of the image.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

bundle=${OCTOPUS_CA_BUNDLE:-}
if [ -n "$bundle" ]; then
  [ -r "$bundle" ] || fail "OCTOPUS_CA_BUNDLE=$bundle cannot be read"
else
  # Debian and its kin, Fedora and its kin, macOS and Alpine.
  for candidate in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    [ -r "$candidate" ] && bundle=$candidate && break
  done
fi
mkdir -p "$local_dir/ca"
replace "$local_dir/ca/bundle.crt" 644 < "${bundle:-/dev/null}"
