import os
import signal
import sys
import time

dependencies = ["pip install -q Flask==3.1.0"]

for line in dependencies:
    os.system(line)

from flask import Flask

config_str = '''{"device_map": {"cpu": "1GiB"}, "required_python_version": "cp313", "functions": [
    {"name": "answer", "display_name": "Answer", "description": "Answers.", "parameters": {}}]}'''

app = Flask(__name__)
state = {"ready": False}


def end(signum, frame):
    print("asked to end", flush=True)
    sys.exit(0)


@app.post("/v1/setup")
def setup():
    time.sleep(3)
    state["ready"] = True
    print("set-up performed", flush=True)
    return {"setup": "Performed"}, 201


@app.get("/v1/health-check")
def health_check():
    return {"status": "Ok"}, 200 if state["ready"] else 503


@app.post("/v1/answer")
def answer():
    return {"response": "slow"}, 201


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    time.sleep(2)
    app.run(host="0.0.0.0", port=5000, threaded=True)
