# Stand-in for registry:2 where it cannot be pulled: the same program (distribution 2.8) from Debian's package, with the
# same settings by REGISTRY_* variables.
ARG DEBIAN_IMAGE=debian:bookworm-slim
FROM ${DEBIAN_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends docker-registry ca-certificates wget \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
# The packaged configuration asks for a password file that is not there.
COPY registry/config.yml /etc/docker/registry/config.yml
VOLUME /var/lib/registry
EXPOSE 5000
ENTRYPOINT ["docker-registry"]
CMD ["serve", "/etc/docker/registry/config.yml"]
