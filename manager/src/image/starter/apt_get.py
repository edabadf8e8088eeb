#!/usr/bin/env python3
"""Stands before apt-get: a function's own install lines find what the image has, and learn what it lacks.

Nothing can be installed in a container whose files are read-only. So `update` has nothing to do, and `install` is a
question: is it there?
"""

import subprocess
import sys

# Options that take a value of their own.
VALUED = {"-o", "-c", "-t", "--option", "--config-file", "--target-release", "--default-release"}


def words(arguments):
    rest = iter(arguments)
    for word in rest:
        if word in VALUED:
            next(rest, None)
        elif not word.startswith("-"):
            yield word


def is_installed(package):
    name = package.split("=")[0].split("/")[0]
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}", name],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    return shown.returncode == 0 and shown.stdout.startswith("ii")


def main():
    command, *packages = list(words(sys.argv[1:])) or ["help"]
    if command in ("update", "upgrade", "clean", "autoclean", "autoremove"):
        return 0
    if command != "install":
        print(f"apt-get {command}: nothing can be changed in a function's container", file=sys.stderr)
        return 100
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        print(f"apt-get: the image lacks {' '.join(missing)}: ask the operator for a base image with it", file=sys.stderr)
        return 100
    return 0


if __name__ == "__main__":
    sys.exit(main())
