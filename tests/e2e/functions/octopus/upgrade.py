import os
import time

dependencies = [
    "pip install -q --upgrade Flask==3.1.0 requests",
    "pip install -q -U click --extra-index-url https://pypi.org/simple",
]

begun = time.monotonic()
for line in dependencies:
    if os.system(line) != 0:
        raise SystemExit(f"not satisfied: {line}")
if time.monotonic() - begun > 60:
    raise SystemExit("the install lines waited for a network")

from flask import Flask

config_str = '''{"device_map": {"cpu": "1GiB"}, "required_python_version": "cp312", "functions": [
    {"name": "answer", "display_name": "Answer", "description": "Answers.", "parameters": {}}]}'''

app = Flask(__name__)


@app.post("/v1/setup")
def setup():
    print("set-up performed", flush=True)
    return {"setup": "Performed"}, 201


@app.post("/v1/answer")
def answer():
    return {"response": "upgrade"}, 201


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
