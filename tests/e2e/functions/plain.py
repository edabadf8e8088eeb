"""A service of the standard library alone: where many start that are not what is tested, it costs the node little."""

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App:
    def route(self, path, methods):
        return lambda function: function


app = App()


@app.route("/v1/setup", methods=["POST"])
def setup():
    return 201


@app.route("/v1/health-check", methods=["GET"])
def health_check():
    return 200


class Handler(BaseHTTPRequestHandler):
    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(setup())

    def do_GET(self):
        self.answer(health_check())

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("0.0.0.0", 5000), Handler).serve_forever()
