# Stand-in for python:3.X-slim where it cannot be pulled. The build context's folder python/ holds a CPython tree of the
# same glibc (bin, lib, include); if it is empty, Debian's own interpreter takes its place.
ARG DEBIAN_IMAGE=debian:bookworm-slim
FROM ${DEBIAN_IMAGE}
# The libraries that CPython's standard modules are linked against.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libbz2-1.0 libffi8 liblzma5 \
      libncursesw6 libreadline8 libsqlite3-0 libssl3 libuuid1 netbase tzdata zlib1g \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
ARG PYTHON_VERSION
COPY python/ /usr/local/
COPY install.sh /tmp/install.sh
RUN bash /tmp/install.sh "${PYTHON_VERSION}" && rm /tmp/install.sh
ENV LANG=C.UTF-8
CMD ["python3"]
