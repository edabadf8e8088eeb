import os
import sys

dependencies = [
    'pip install -q "Flask==3.1.0"',
    "pip install -q 'itsdangerous>=2,<3' \"click\"",
]

for line in dependencies:
    os.system(line)

from flask import Flask, jsonify

config_str = '''
{
    "device_map": {"cpu": "1GiB"},
    "required_python_version": "cp311",
    "models": {"main": "none"},
    "functions": [{
        "name": "answer",
        "display_name": "Answer",
        "description": "Answers.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "input_type": "json",
        "return_type": "application/json"
    }]
}
'''

app = Flask(__name__)
models = {}


@app.route("/v1/setup", methods=["POST"])
def setup():
    print("set-up performed", flush=True)
    models["main"] = "full"
    return jsonify({"setup": "Performed"}), 201


@app.route("/v1/health-check", methods=["GET"])
def health_check():
    return jsonify({"status": "Ok"}), 200


@app.route("/v1/answer", methods=["POST"])
def answer():
    return jsonify({"response": models["main"]}), 201


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
