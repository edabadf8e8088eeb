"""Takes too much of one thing, within bounds of its own: memory, processes, disk or log. Or calls a neighbour: call URL. Or
tells which of some addresses it reaches: around HOST:PORT..."""

import json
import os
import socket
import sys
import time
import urllib.request

SECONDS = 20
MEBIBYTE = 1 << 20


def memory():
    held = []
    for _ in range(512):
        held.append(b"x" * MEBIBYTE)


def processes():
    ends = time.monotonic() + SECONDS
    # Four times what a node lets a pod have.
    for _ in range(2048):
        try:
            if os.fork() == 0:
                time.sleep(max(0, ends - time.monotonic()))
                os._exit(0)
        except OSError:
            print("refused", flush=True)
            sys.exit(1)


def disk():
    with open("/tmp/fill", "wb") as file:
        for _ in range(200):
            file.write(b"x" * MEBIBYTE)
    # The node measures from time to time, and ends it.
    time.sleep(300)


def log():
    ends = time.monotonic() + SECONDS
    line = "flood " + "x" * 193 + "\n"
    while time.monotonic() < ends:
        sys.stdout.write(line * 1000)


def around(*addresses):
    for address in addresses:
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
            print(address, "reached", flush=True)
        except OSError:
            print(address, "closed", flush=True)


def call(url):
    ends = time.monotonic() + 600
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"name": "you"}).encode()
    number = 0
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as answer:
                said = answer.status
        except OSError as error:
            said = error
        print(number, said, flush=True)
        number += 1
        time.sleep(0.2)


TASKS = {"memory": memory, "processes": processes, "disk": disk, "log": log, "around": around, "call": call}
TASKS[sys.argv[1]](*sys.argv[2:])
