import os

dependencies = ["pip install -q Flask==3.1.0"]

for line in dependencies:
    os.system(line)

from flask import Flask

config_str = '''{"device_map": {"cuda:0": "10GiB", "cpu": "1GiB"}, "required_python_version": "cp312", "functions": [
    {"name": "answer", "display_name": "Answer", "description": "Answers.", "parameters": {}}]}'''

app = Flask(__name__)


@app.route("/v1/setup", methods=["GET", "POST"])
def setup():
    print("set-up performed", flush=True)
    return {"setup": "Performed"}, 201


@app.post("/v1/answer")
def answer():
    shared = os.statvfs("/dev/shm")
    # Before 1.22 Kubernetes counts a limit of shared memory, and the mount does not show it.
    return {"response": f"gpu {shared.f_blocks * shared.f_frsize >> 20} MiB"}, 201


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
