# A base image for functions: a Python, and the system packages that functions may ask for by apt-get.
#
#   docker build -f docker/base.Dockerfile --build-arg PYTHON_IMAGE=python:3.12-slim --build-arg PACKAGES="ffmpeg pandoc" docker
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}
ARG PACKAGES=ca-certificates
RUN apt-get update && apt-get install -y --no-install-recommends ${PACKAGES} \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
