"""Runs in a pod and looks at the cluster from there. `serve PORT PORT` listens; `look ADDRESS OPEN CLOSED` prints one line
of JSON: which of the two ports of the other pod it reaches, and what its node lets it have."""

import json
import socket
import sys
import threading
import time

# A network may take a while until it knows a policy.
SETTLE_SECONDS = 20
# One attempt may fail for other reasons than a policy.
LOOKS_IN_A_ROW = 3
# More than any function needs: a pod that may have as many is not limited.
MAX_PROCESSES = 4096


def serve(*ports):
    for port in ports:
        listener = socket.create_server(("", int(port)))
        threading.Thread(target=answer, args=[listener], daemon=True).start()
    print("listening", flush=True)
    while True:
        time.sleep(3600)


def answer(listener):
    while True:
        listener.accept()[0].close()


def reaches(address, port):
    try:
        socket.create_connection((address, int(port)), timeout=1).close()
        return True
    except OSError:
        return False


def policy(address, allowed, denied):
    """What was seen last; enforcement only when it was seen several times in a row."""
    ends = time.monotonic() + SETTLE_SECONDS
    enforced = 0
    while True:
        seen = {"denied": reaches(address, denied), "allowed": reaches(address, allowed)}
        enforced = enforced + 1 if seen == {"allowed": True, "denied": False} else 0
        if enforced == LOOKS_IN_A_ROW or (time.monotonic() > ends and enforced == 0):
            return seen
        time.sleep(0.5)


def processes():
    """Threads count as processes do, and cost less. None: there is no limit that anybody would meet."""
    threading.stack_size(64 << 10)
    over = threading.Event()
    started = 0
    try:
        for _ in range(MAX_PROCESSES):
            threading.Thread(target=over.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        return started
    finally:
        over.set()
    return None


def setting(name):
    try:
        with open(f"/proc/sys/{name}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def look(address, allowed, denied):
    seen = {
        "policy": policy(address, allowed, denied),
        "processes": processes(),
        "inotify_instances": setting("fs/inotify/max_user_instances"),
    }
    # Last: it is read at once.
    print(json.dumps(seen | {"time": time.time()}), flush=True)


{"serve": serve, "look": look}[sys.argv[1]](*sys.argv[2:])
