import os

dependencies = [
    "pip install -q --upgrade Flask==3.1.0",
    'pip install "requests>=2.31,<3"',
]

for line in dependencies:
    if os.system(line) != 0:
        raise SystemExit(f"not satisfied: {line}")

from flask import Flask, jsonify, request

config_str = '''{
    "device_map": {"cpu": "1GiB"},
    "required_python_version": "cp312",
    "functions": [{
        "name": "hello", "display_name": "Hello", "description": "Greets.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
        "input_type": "json", "return_type": "text/plain"
    }]
}'''

app = Flask(__name__)


@app.post("/v1/setup")
def setup():
    return jsonify({"setup": "Performed"}), 201


@app.post("/v1/hello")
def hello():
    return jsonify({"response": f"Hello, {request.json['name']}!"}), 201


if __name__ == "__main__":
    print("hello starts", flush=True)
    app.run(host="0.0.0.0", port=5000, threaded=True)
