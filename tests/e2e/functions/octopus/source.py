import os

dependencies = [
    "pip install -q docopt==0.6.2",
    "pip install -q Flask==3.1.0",
]

for line in dependencies:
    if os.system(line) != 0:
        raise SystemExit(f"not satisfied: {line}")

import docopt
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
    return {"response": f"source {docopt.__version__}"}, 201


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
