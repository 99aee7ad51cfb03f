"""An API server that is no more than its answers: it tells what there is, and after that nothing."""

import base64
import contextlib
import http.server
import json
import threading

RBAC = "/apis/rbac.authorization.k8s.io/v1"
NEVER = threading.Event()


class ApiServer(http.server.ThreadingHTTPServer):
    """Tells of `objects`: JSON texts by the path of their kind, and of its public keys, a JWKS. Those at the path `forgotten` it has to be asked for anew each time that
    `forgets` is set; `readings` counts how often they were read."""

    daemon_threads = True
    request_queue_size = 500

    def __init__(self, objects, keys='{"keys":[]}', streams_lists=True, forgotten=None):
        super().__init__(("127.0.0.1", 0), Answers)
        self.objects, self.keys, self.streams_lists, self.forgotten = objects, keys, streams_lists, forgotten
        self.forgets, self.readings = threading.Event(), threading.Semaphore(0)

    @contextlib.contextmanager
    def running(self, kubeconfig):
        """While it runs, the file `kubeconfig` names it."""
        kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}], "users": [{"name": "it", "user": {}}],
        }))
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = dict(part.partition("=")[::2] for part in query.split("&"))
        objects = self.server.objects.get(path, [])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if path == "/openid/v1/jwks":
                self.answer(200, self.server.keys)
            elif asked.get("watch") == "true":
                self.watch(path, objects, "sendInitialEvents" in asked)
            else:
                begin, size = int(asked.get("continue", 0)), int(asked.get("limit", len(objects) or 1))
                end = begin + size
                page = {"resourceVersion": "1000000"} | ({"continue": str(end)} if end < len(objects) else {})
                self.answer(200, '{"metadata":%s,"items":[%s]}' % (json.dumps(page), ",".join(objects[begin:end])))

    def do_POST(self):
        """A TokenReview, of a service account's token: it is good."""
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        claims = review["spec"]["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        account = claims["kubernetes.io"]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{account['namespace']}", "system:authenticated"]
        review["status"] = {
            "authenticated": True, "audiences": review["spec"].get("audiences", []),
            "user": {"username": claims["sub"], "uid": account["serviceaccount"]["uid"], "groups": groups},
        }
        self.answer(201, json.dumps(review))

    def watch(self, path, objects, from_the_beginning):
        if from_the_beginning and not self.server.streams_lists:
            return self.answer(422, json.dumps({"kind": "Status", "status": "Failure", "code": 422, "message": "old", "reason": "Invalid"}))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if from_the_beginning:
            for n in range(0, len(objects), 100):
                self.chunk("".join('{"type":"ADDED","object":%s}\n' % item for item in objects[n : n + 100]))
            self.bookmark({"annotations": {"k8s.io/initial-events-end": "true"}})
        is_forgotten = path == self.server.forgotten
        if is_forgotten:
            self.server.readings.release()
        # Of whom nothing is heard for a minute is taken for dead.
        while not (self.server.forgets if is_forgotten else NEVER).wait(20):
            self.bookmark({})
        self.server.forgets.clear()
        self.chunk(json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}}) + "\n")
        self.chunk("")

    def bookmark(self, more):
        metadata = {"resourceVersion": "1000000"} | more
        self.chunk(json.dumps({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "X", "metadata": metadata}}) + "\n")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def chunk(self, text):
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass
