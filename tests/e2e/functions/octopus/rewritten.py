import argparse
import os

dependencies = ["pip install -q Flask==3.1.0"]

for line in dependencies:
    os.system(line)

from flask import Flask

config_str = '''{"device_map": {"cpu": "1GiB"}, "required_python_version": "cp312", "functions": [
    {"name": "answer", "display_name": "Answer", "description": "Answers.", "parameters": {}}]}'''

app = Flask(__name__)


@app.route("/setup", methods=["POST"])
def setup():
    print("set-up performed", flush=True)
    return {"setup": "Performed"}, 201


@app.route("/health-check")
def health_check():
    return {"status": "Ok"}, 200


@app.route("/answer", methods=["POST"])
def answer():
    return {"response": "rewritten"}, 201


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", type=str, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app.run(host=arguments.host, port=arguments.port, threaded=True)
