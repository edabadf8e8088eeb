# The images of binaries.Dockerfile from binaries that this machine's cargo has built (scripts/binaries.sh puts them into
# .local/image). For machines without the upstream images. The C library of the machine must not be newer than the
# image's: each image runs its binary once, so that this shows here and not at the start.
ARG DEBIAN_IMAGE=debian:bookworm-slim
FROM ${DEBIAN_IMAGE} AS base
COPY docker/health.sh /usr/local/bin/octopus-health
RUN mkdir /var/cache/octopus /var/spool/octopus && chown 10001:10001 /var/cache/octopus /var/spool/octopus
USER 10001:10001

FROM base AS api
COPY .local/image/octopus-api /usr/local/bin/
RUN ["octopus-api", "--version"]
CMD ["octopus-api", "serve"]

FROM base AS manager
USER root
# uv asks some interpreter for its tags, whichever Python the function wants; none of a function's code runs in it.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY .local/image/uv .local/image/octopus-manager /usr/local/bin/
RUN ["octopus-manager", "--version"]
RUN ["uv", "--version"]
# A volume that is mounted here begins with the owner of the folder.
VOLUME /var/cache/octopus /var/spool/octopus
CMD ["octopus-manager", "run"]

FROM base AS demo
COPY .local/image/octopus-demo /usr/local/bin/
RUN ["octopus-demo", "--version"]
CMD ["octopus-demo"]
