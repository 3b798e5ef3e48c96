import http.server, os, urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = urllib.request.urlopen("http://shelf:9000/").status
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.environ['GREETING']} {status}".encode())


http.server.HTTPServer(("", 8080), Handler).serve_forever()
