from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App:
    def get(self, path):
        return lambda function: function


app = App()
answered = 0


@app.get("/health-check")
def health_check():
    global answered
    answered += 1
    return 200 if answered < 3 else 503


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(health_check())
        self.send_header("content-length", "0")
        self.end_headers()


ThreadingHTTPServer(("0.0.0.0", 5000), Handler).serve_forever()
