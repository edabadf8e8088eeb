"""Builds the wheel of a package that exists as source only, and hands it to whoever connects to port 8080 of this pod.

Runs in a pod of its own: the package's set-up code is a stranger's. Arguments: the requirement, then the options that
name the package index. Answer to each connection: one line of JSON, then the bytes of the wheel.
"""

import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys

HOME = pathlib.Path(os.environ.get("WHEEL_HOME", "/tmp"))
UV = os.environ.get("WHEEL_UV", "/opt/octopus/uv")
KEPT = 16 << 10


def run(*command):
    ended = subprocess.run(command, cwd=HOME, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = ended.stdout.decode(errors="replace")
    if ended.returncode != 0:
        raise RuntimeError(f"{command[0]} {command[1]} ended with {ended.returncode}: {text[-KEPT:]}")
    return text


def build(requirement, options):
    source, wheel = HOME / "source", HOME / "wheel"
    source.mkdir()
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(source),
        *options, requirement)
    archives = list(source.iterdir())
    if len(archives) != 1:
        raise RuntimeError(f"{requirement} is not one source distribution but {[archive.name for archive in archives]}")
    run(UV, "build", "--wheel", "--no-config", "--python", sys.executable, "--out-dir", str(wheel), str(archives[0]))
    (made,) = wheel.glob("*.whl")
    return made


def result(requirement, options):
    try:
        made = build(requirement, options)
    except Exception as error:
        return {"error": str(error)[-KEPT:]}, b""
    content = made.read_bytes()
    return {"file": made.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, content


if __name__ == "__main__":
    # Only who may forward a port of this pod reaches it; a connection waits until there is an answer.
    server = socket.create_server(("127.0.0.1", 8080), backlog=16)
    head, content = result(sys.argv[1], sys.argv[2:])
    print(json.dumps(head), flush=True)
    while True:
        connection, _ = server.accept()
        try:
            with connection:
                connection.sendall(json.dumps(head).encode() + b"\n" + content)
        except OSError as error:
            print(f"not taken: {error}", flush=True)
