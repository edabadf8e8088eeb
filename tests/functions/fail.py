"""Fails on purpose: prints a little and exits with 3."""

import sys

dependencies = []

config_str = '''{
    "device_map": {"cpu": "32MiB"},
    "required_python_version": "cp311",
    "functions": []
}'''

if __name__ == "__main__":
    print("fail: begins its work", flush=True)
    print("fail: cannot go on: the input is missing", flush=True)
    sys.exit(3)
