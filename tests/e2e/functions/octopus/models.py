import os
import pathlib

dependencies = ["pip install -q Flask==3.1.0"]

for line in dependencies:
    os.system(line)

from flask import Flask

config_str = '''{"device_map": {"cpu": "1GiB"}, "required_python_version": "cp312", "models": ["tiny"], "functions": [
    {"name": "answer", "display_name": "Answer", "description": "Answers.", "parameters": {}}]}'''

app = Flask(__name__)
model = pathlib.Path(os.environ["HF_HOME"]) / os.environ.get("MODEL", "tiny")


@app.post("/v1/setup")
def setup():
    if model.exists():
        print("the model was there", flush=True)
    else:
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text("models")
        print("the model was fetched", flush=True)
    print("set-up performed", flush=True)
    return {"setup": "Performed"}, 201


@app.post("/v1/answer")
def answer():
    return {"response": model.read_text()}, 201


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, threaded=True)
