"""Calls a function inside the cluster, once it answers: URL NAME. Needs nothing but Python."""

import json
import sys
import time
import urllib.error
import urllib.request

dependencies = []

config_str = '''{
    "device_map": {"cpu": "32MiB"},
    "required_python_version": "cp311",
    "functions": []
}'''

ATTEMPTS = 20


def call(url, name):
    body = json.dumps({"name": name}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as answer:
        return answer.status, answer.read().decode().strip()


if __name__ == "__main__":
    url, name = sys.argv[1:]
    print(f"call: POST {url}", flush=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            status, answer = call(url, name)
            print(f"call: {status} {answer}", flush=True)
            sys.exit(0)
        except urllib.error.HTTPError as error:
            print(f"call: {error.code} {error.read().decode().strip()}", flush=True)
            sys.exit(1)
        except OSError as error:
            # A Service that is new may take a moment until every node leads to its pod.
            print(f"call: attempt {attempt} of {ATTEMPTS}: {error}", flush=True)
            time.sleep(0.5)
    sys.exit(1)
