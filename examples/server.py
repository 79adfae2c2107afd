"""A small HTTP server to load. ``python examples/server.py [port [address]]`` prints its URL when it is ready.

/            at once
/slow        after 50 to 150 ms
/items/<id>  after some ms
/missing     404
/broken      500
/flaky       503 for every tenth request
"""

import contextlib
import random
import sys
from itertools import count

import gevent
from gevent import pywsgi

REASONS = {200: "OK", 404: "Not Found", 500: "Internal Server Error", 503: "Service Unavailable"}
flaky = count(1)


def answer(path):
    """Status and seconds to wait for a path."""
    if path == "/":
        return 200, 0
    if path == "/slow":
        return 200, random.uniform(0.05, 0.15)
    if path.startswith("/items/"):
        return 200, random.lognormvariate(-5.5, 0.5)
    if path == "/broken":
        return 500, 0
    if path == "/flaky":
        return (503, 0) if next(flaky) % 10 == 0 else (200, 0)
    return 404, 0


def application(environ, start_response):
    """The WSGI application."""
    status, wait_s = answer(environ["PATH_INFO"])
    if wait_s:
        gevent.sleep(wait_s)
    body = f"{REASONS[status]} {environ['PATH_INFO']}\n".encode()
    start_response(f"{status} {REASONS[status]}", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def main():
    """Serve until Ctrl-C."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    server = pywsgi.WSGIServer((address, port), application, log=None)
    server.start()
    print(f"http://{address}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
