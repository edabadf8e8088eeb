import os

dependencies = ["pip install -q 'Flask>=3.0,<4' Werkzeug~=3.0"]

for line in dependencies:
    os.system(line)

from flask import Flask

config_str = '''{"device_map": {"cpu": "1GiB"}, "required_python_version": "cp310", "functions": [
    {"name": "answer", "display_name": "Answer", "description": "Answers.", "parameters": {}}]}'''

app = Flask(__name__)


@app.get("/v1/health-check")
def health_check():
    return {"status": "Ok"}, 200


@app.post("/v1/answer")
def answer():
    return {"response": "old python"}, 201


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
