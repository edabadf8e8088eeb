"""An AI function in octopus format, without the AI: it greets whoever asks."""

import os
import signal
import sys

dependencies = ["pip install -q Flask==3.1.0"]

for installation in dependencies:
    os.system(installation)

from flask import Flask, jsonify, request

config_str = '''{
    "device_map": {"cpu": "64MiB"},
    "required_python_version": "cp311",
    "functions": [
        {
            "name": "hello",
            "display_name": "Hello",
            "description": "Greets somebody.",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string", "description": "Who is greeted"}},
                "required": ["name"]
            },
            "input_type": "json",
            "return_type": "json"
        }
    ]
}'''

app = Flask(__name__)


@app.route("/v1/setup", methods=["POST"])
def setup():
    return jsonify({"setup": "Performed"}), 201


@app.route("/v1/health-check", methods=["GET"])
def health_check():
    return jsonify({"status": "Ok"}), 200


@app.route("/v1/hello", methods=["POST"])
def hello():
    name = request.get_json()["name"]
    print(f"hello: {name} asks", flush=True)
    return jsonify({"response": f"Hello, {name}!"}), 201


def end(signum, frame):
    print("hello: asked to end, ending", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    # The first process of a container gets no signal that it does not ask for.
    signal.signal(signal.SIGTERM, end)
    print("hello: starts to serve", flush=True)
    app.run(host="0.0.0.0", port=5000, threaded=True)
