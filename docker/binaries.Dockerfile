# The binaries, compiled from source in the upstream Rust image: Docker alone is enough. local.Dockerfile is the same
# without the compiler.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim
ARG PYTHON_IMAGE=python:3.11-slim

# uv resolves and unpacks the dependencies of functions. It is a binary in a wheel.
FROM ${PYTHON_IMAGE} AS uv
# Optional, hence the wildcard: the certificate authorities of this machine (scripts/ca.sh).
COPY Cargo.toml .local/ca/bundle.cr[t] /ca/
COPY scripts/uv.version /uv.version
RUN if [ -s /ca/bundle.crt ]; then export PIP_CERT=/ca/bundle.crt; fi \
 && pip install --no-cache-dir --root-user-action=ignore --target /uv "uv==$(cat /uv.version)"

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml .local/ca/bundle.cr[t] /ca/
# Without rust-toolchain.toml (.dockerignore): rustup would fetch components that only a developer uses.
COPY . .
ENV SQLX_OFFLINE=true
RUN if [ -s /ca/bundle.crt ]; then export CARGO_HTTP_CAINFO=/ca/bundle.crt SSL_CERT_FILE=/ca/bundle.crt; fi \
 && cargo build --release --locked --bin octopus-api --bin octopus-manager --bin octopus-demo

FROM ${DEBIAN_IMAGE} AS base
COPY docker/health.sh /usr/local/bin/octopus-health
RUN mkdir /var/cache/octopus /var/spool/octopus && chown 10001:10001 /var/cache/octopus /var/spool/octopus
# No name is needed for the user.
USER 10001:10001

FROM base AS api
COPY --from=build /src/target/release/octopus-api /usr/local/bin/
CMD ["octopus-api", "serve"]

FROM base AS manager
USER root
# uv asks some interpreter for its tags, whichever Python the function wants; none of a function's code runs in it.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=uv /uv/bin/uv /usr/local/bin/
COPY --from=build /src/target/release/octopus-manager /usr/local/bin/
# A volume that is mounted here begins with the owner of the folder.
VOLUME /var/cache/octopus /var/spool/octopus
CMD ["octopus-manager", "run"]

FROM base AS demo
COPY --from=build /src/target/release/octopus-demo /usr/local/bin/
CMD ["octopus-demo"]
