"""Takes too much of one thing, within bounds of its own: memory or processes. Or calls a neighbour: call URL."""

import json
import os
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


{"memory": memory, "processes": processes, "call": call}[sys.argv[1]](*sys.argv[2:])
