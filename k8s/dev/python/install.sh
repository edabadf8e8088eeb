#!/bin/bash
# Inside the image: makes `python`, `python3` and `pip` of the given version work from /usr/local/bin.
set -euo pipefail
version=$1

if [ -x "/usr/local/bin/python$version" ]; then
  ldconfig # the interpreter's shared library is in /usr/local/lib
  rm -f /usr/local/bin/pip*
  "/usr/local/bin/python$version" -m ensurepip --default-pip > /dev/null
  # Compiled on another machine, perhaps: the paths of scripts must be those of here.
  sed -i "1s|^#!.*python.*|#!/usr/local/bin/python$version|" /usr/local/bin/pip*
  ln -sf "python$version" /usr/local/bin/python3
else
  apt-get update
  apt-get install -y --no-install-recommends "python$version" python3-pip
  apt-get clean
  rm -rf /var/lib/apt/lists/* "/usr/lib/python$version/EXTERNALLY-MANAGED"
  ln -sf "/usr/bin/python$version" /usr/local/bin/python3
  ln -sf /usr/bin/pip3 /usr/local/bin/pip3
  ln -sf /usr/bin/pip3 /usr/local/bin/pip
fi
ln -sf python3 /usr/local/bin/python
find / -xdev -name __pycache__ -prune -exec rm -rf {} +

python3 - << 'PYTHON'
import bz2, ctypes, lzma, sqlite3, ssl, sys, uuid, zlib  # each needs a library of the image
print(sys.version)
PYTHON
python -m pip --version
