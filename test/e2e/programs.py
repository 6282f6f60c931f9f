#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real programs under usher-run, each with a kernel peer on host b and, where it has a client, one on Usher.

A test is skipped, and says so, where its program is not installed.
"""
import os
import pwd
import shutil
import signal
import socket
import sys
import time

from posix_rig import ask, carried, find, is_carried, listening, needs, plain, under
from rig import A4, B4, check, main, run, until
from streams import kernel_stream_echo

TEXT = "".join(f"line {i} of a file that is long enough\n" for i in range(20_000))


def served(rig, name="file"):
    """A folder with one file, for web servers; others than root may read it."""
    folder = f"{rig.dir}/www"
    os.makedirs(folder, exist_ok=True)
    os.chmod(rig.dir, 0o755)
    with open(f"{folder}/{name}", "w", encoding="utf-8") as f:
        f.write(TEXT)
    return folder


def fetch(rig, url, both=True):
    """curl and wget, as the kernel's peers and on Usher."""
    for host, usher in (("b", False), ("a", True)) if both else (("b", False),):
        answer = ask(rig, host, "curl", "-sS", url, usher=usher)
        check(answer.text == TEXT, f"curl on {host}: {len(answer.text)} characters, {answer.err}")
        if usher:
            is_carried(answer, "stream")
        if find("wget"):
            answer = ask(rig, host, "wget", "-q", "-O", "-", url, usher=usher)
            check(answer.text == TEXT, f"wget on {host}: {len(answer.text)} characters, {answer.err}")
            check(not usher or carried(answer, "stream"), f"wget is not carried: {answer.report}")


def curl_wget(rig):
    """Clients on Usher, python3's http.server on the kernel, on Usher, and again with a client of the kernel's."""
    if not needs("curl", "wget"):
        return
    rig.usherd()
    folder = served(rig)
    plain(rig, "b", "python3", "-m", "http.server", 9000, "--directory", folder)
    server = under(rig, "python3", "-m", "http.server", 8080, "--directory", folder, options=["--listen=now"])
    listening(rig, "b", 9000)
    listening(rig, "a", 8080)
    for program, args in (("curl", ["-sS"]), ("wget", ["-q", "-O", "-"])):
        answer = ask(rig, "a", program, *args, f"http://{B4}:9000/file", usher=True)
        check(answer.text == TEXT, f"{program}: {len(answer.text)} characters, {answer.err}")
        is_carried(answer, "stream")
    fetch(rig, f"http://{A4}:8080/file")
    is_carried(server, "listener")
    answer = ask(rig, "a", "curl", "-sS", "-Z", *[f"http://{B4}:9000/file"] * 30, usher=True)
    check(answer.text == TEXT * 30 or len(answer.text) == len(TEXT) * 30, f"in parallel: {len(answer.text)}")
    check(len(carried(answer, "stream")) >= 10, f"{answer.report}")


def nc(rig):
    if not needs("nc"):
        return
    rig.usherd()
    kernel_stream_echo(rig, "b", 9000)
    answer = ask(rig, "a", "nc", "-N", B4, 9000, data=TEXT.encode(), usher=True)
    check(answer.text == TEXT, f"echoed: {len(answer.text)} characters")
    is_carried(answer, "stream")
    for port, (host, usher) in enumerate((("b", False), ("a", True)), 7100):
        server = under(rig, "nc", "-l", port)
        listening(rig, "a", port)
        answer = ask(rig, host, "nc", "-N", A4, port, data=TEXT.encode(), usher=usher)
        check(server.end(0) == 0, "nc -l ends with its connection")
        check(TEXT in server.text() + "\n", f"{len(server.text())} characters came")
        is_carried(server, "listener")
        if usher:
            is_carried(answer, "stream")
    server = under(rig, "nc", "-u", "-l", 7200)
    listening(rig, "a", 7200, "udp")
    rig.asks("b", A4, 7200, b"a datagram\n", timeout=0.1)
    server.says("a datagram")
    is_carried(server, "datagrams")


def redis(rig):
    if not needs("redis-server", "redis-cli", "redis-benchmark"):
        return
    rig.usherd()
    server = under(rig, "redis-server", "--port", 6379, "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", rig.dir,
                   "--save", "")
    listening(rig, "a", 6379)
    is_carried(server, "listener")
    for host, usher in (("b", False), ("a", True)):
        check(ask(rig, host, "redis-cli", "-h", A4, "set", "key", host, usher=usher).text == "OK\n", "set")
        check(ask(rig, host, "redis-cli", "-h", A4, "get", "key", usher=usher).text == f"{host}\n", "get")
        for pipeline in (1, 16):
            answer = ask(rig, host, "redis-benchmark", "-h", A4, "-t", "set,get,lpush,mset", "-n", 10_000, "-c", 50,
                         "-P", pipeline, "-q", usher=usher)
            check(answer.text.count("requests per second") == 4, answer.text)
            check(not usher or len(carried(answer, "stream")) >= 50, f"not carried: {answer.report[-5:]}")
    plain(rig, "b", "redis-server", "--port", 6380, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "")
    listening(rig, "b", 6380)
    answer = ask(rig, "a", "redis-benchmark", "-h", B4, "-p", 6380, "-t", "set,get", "-n", 5_000, "-q", usher=True)
    check(answer.text.count("requests per second") == 2 and len(carried(answer, "stream")) >= 50, answer.text)
    bench = plain(rig, "b", "redis-benchmark", "-h", A4, "-t", "set", "-n", 100_000, "-c", 20, "-q")
    ask(rig, "b", "redis-cli", "-h", A4, "bgsave")
    until("the child has saved", lambda: os.path.exists(f"{rig.dir}/dump.rdb"))
    check(bench.end(0, 60) == 0 and "requests per second" in bench.text(), bench.text())
    until("the server knows", lambda: "rdb_last_bgsave_status:ok" in
          ask(rig, "b", "redis-cli", "-h", A4, "info", "persistence").text)


MEMCACHED_CLIENT = r"""
import socket, struct, sys, threading
failed = []
def client(n):
    s = socket.create_connection((sys.argv[1], 11211), 30)
    value = b"%d" % n * 2000
    for i in range(50):
        s.sendall(b"set k%d_%d 0 0 %d\r\n%s\r\nget k%d_%d\r\n" % (n, i, len(value), value, n, i))
        want = b"STORED\r\nVALUE k%d_%d 0 %d\r\n%s\r\nEND\r\n" % (n, i, len(value), value)
        got = b""
        while len(got) < len(want) and (piece := s.recv(65536)):
            got += piece
        if got != want:
            failed.append(got[:100])
threads = [threading.Thread(target=client, args=(n,)) for n in range(1, 13)]
for t in threads: t.start()
for t in threads: t.join()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(10)
u.connect((sys.argv[1], 11211))
for i in range(50):
    u.send(b"\0\1\0\0\0\1\0\0get k1_%d\r\n" % i)
    pieces = {}
    while not pieces or len(pieces) < count:
        piece = u.recv(65536)
        number, count = struct.unpack("!2xHH2x", piece[:8])
        pieces[number] = piece[8:]
    if b"".join(pieces[n] for n in sorted(pieces)) != b"VALUE k1_%d 0 2000\r\n%s\r\nEND\r\n" % (i, b"1" * 2000):
        failed.append(pieces)
print(failed[:3] or "all")
"""


def memcached(rig):
    if not needs("memcached"):
        return
    rig.usherd()
    server = under(rig, "memcached", "-p", 11211, "-U", 11211, "-l", "0.0.0.0", "-t", 4, "-u", "root")
    listening(rig, "a", 11211)
    for host, usher in (("b", False), ("a", True)):
        answer = ask(rig, host, "python3", "-c", MEMCACHED_CLIENT, A4, usher=usher)
        check("all" in answer.text, f"on {host}: {answer.text} {answer.err}")
        if usher:
            check(len(carried(answer, "stream")) == 12 and carried(answer, "datagrams"), f"{answer.report}")
    is_carried(server, "listener")
    is_carried(server, "datagrams")


def nginx_config(rig, folder, workers=2):
    return rig.path("nginx.conf", f"""
daemon off; user root; worker_processes {workers}; pid {rig.dir}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {rig.dir}/t1; proxy_temp_path {rig.dir}/t2;
  fastcgi_temp_path {rig.dir}/t3; uwsgi_temp_path {rig.dir}/t4; scgi_temp_path {rig.dir}/t5;
  server {{ listen 8080; root {folder}; sendfile on; }} }}
""")


def nginx(rig):
    if not needs("nginx", "curl"):
        return
    rig.usherd()
    server = under(rig, "nginx", "-c", nginx_config(rig, served(rig)), "-p", rig.dir)
    listening(rig, "a", 8080)
    until("both workers are carried", lambda: len(carried(server, "listener")) >= 2)
    fetch(rig, f"http://{A4}:8080/file")
    if needs("wrk"):
        answer = ask(rig, "b", "wrk", "-c", 20, "-t", 1, "-d", 1, f"http://{A4}:8080/file")
        check("Socket errors" not in answer.text and "requests in" in answer.text, answer.text)


# Each request on a connection of its own, until there is a file of that name.
REQUESTS = r"""
import http.client, os, sys, threading
host, port, end = sys.argv[1], int(sys.argv[2]), sys.argv[3]
done, failed = [0] * 8, []
def ask(name):
    while not os.path.exists(end):
        try:
            c = http.client.HTTPConnection(host, port, timeout=20)
            c.request("GET", "/small")
            a = c.getresponse()
            if a.status != 200 or len(a.read()) == 0:
                raise OSError(a.status)
            c.close()
            done[name] += 1
        except Exception as e:
            failed.append(repr(e))
threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(sum(done), "answered, failed:", failed)
sys.exit(len(failed) > 0)
"""


def nginx_reloads_under_load(rig):
    if not needs("nginx"):
        return
    rig.usherd()
    folder = served(rig)
    with open(f"{folder}/small", "w", encoding="utf-8") as f:
        f.write(TEXT[:1000])
    server = under(rig, "nginx", "-c", nginx_config(rig, folder), "-p", rig.dir)
    listening(rig, "a", 8080)
    until("both workers are carried", lambda: len(carried(server, "listener")) >= 2)
    load = plain(rig, "b", "python3", "-c", REQUESTS, A4, 8080, f"{rig.dir}/end")
    for reload in range(2, 6):
        os.kill(server.pid, signal.SIGHUP)
        until("the new workers are carried", lambda n=2 * reload: len(carried(server, "listener")) >= n)
        time.sleep(0.5)
    rig.path("end", "now")
    check(load.end(0) == 0, f"failed requests: {load.text()}")


def nginx_becomes_another_binary(rig):
    """The successor gets the listeners by fork and exec, the old master's workers end what they have begun."""
    if not needs("nginx"):
        return
    rig.usherd()
    folder = served(rig)
    with open(f"{folder}/small", "w", encoding="utf-8") as f:
        f.write(TEXT[:1000])
    config = nginx_config(rig, folder)
    with open(config, encoding="utf-8") as f:
        text = f.read().replace("daemon off;", "daemon on; env LD_PRELOAD; env USHER_SOCKET; env USHER_CHECK;\n"
                                "env USHER_LISTEN; env USHER_INHERIT;")
    rig.path("nginx.conf", text)
    pid_file = f"{rig.dir}/nginx.pid"

    def master():
        with open(pid_file, encoding="ascii") as f:
            return int(f.read() or 0)
    server = under(rig, "nginx", "-c", config, "-p", rig.dir)
    until("nginx runs", lambda: os.path.exists(pid_file))
    listening(rig, "a", 8080)
    until("both workers are carried", lambda: len(carried(server, "listener")) >= 2)
    load = plain(rig, "b", "python3", "-c", REQUESTS, A4, 8080, f"{rig.dir}/end")
    until("the load has begun", lambda: ":8080" in run(rig.inside("b", ["ss", "-Htan"])).stdout)
    for turn in range(2, 4):
        old = master()
        os.kill(old, signal.SIGUSR2)
        until("the new master runs", lambda: os.path.exists(f"{pid_file}.oldbin") and os.path.exists(pid_file))
        until("its workers are carried", lambda n=2 * turn: len(carried(server, "listener")) >= n)
        os.kill(old, signal.SIGQUIT)
        until("the old master is gone", lambda: not os.path.exists(f"{pid_file}.oldbin"))
        check(master() != old, "another process serves")
    rig.path("end", "now")
    check(load.end(0) == 0, f"failed requests: {load.text()}")


def haproxy(rig):
    if not needs("haproxy", "curl"):
        return
    rig.usherd()
    folder = served(rig)
    plain(rig, "b", "python3", "-m", "http.server", 9000, "--directory", folder)
    listening(rig, "b", 9000)
    config = rig.path("haproxy.cfg", f"""
global
  maxconn 500
defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
frontend web
  bind 0.0.0.0:8080
  default_backend files
backend files
  server one {B4}:9000
""")
    server = under(rig, "haproxy", "-db", "-f", config)
    listening(rig, "a", 8080)
    is_carried(server, "listener")
    fetch(rig, f"http://{A4}:8080/file")
    is_carried(server, "stream")


def lighttpd(rig):
    if not needs("lighttpd", "curl"):
        return
    rig.usherd()
    config = rig.path("lighttpd.conf", f'server.document-root = "{served(rig)}"\nserver.port = 8080\n'
                                       'server.errorlog = "/dev/stderr"\n')
    server = under(rig, "lighttpd", "-D", "-f", config)
    listening(rig, "a", 8080)
    fetch(rig, f"http://{A4}:8080/file")
    is_carried(server, "listener")


def apache(rig, mpm):
    if not needs("apache2", "curl"):
        return
    rig.usherd()
    modules = "/usr/lib/apache2/modules"
    config = rig.path("apache.conf", f"""
ServerRoot {rig.dir}
ServerName a
PidFile {rig.dir}/apache.pid
DefaultRuntimeDir {rig.dir}
ErrorLog /dev/stderr
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
Listen 0.0.0.0:8080
DocumentRoot {served(rig)}
User www-data
Group www-data
""")
    server = under(rig, "apache2", "-DFOREGROUND", "-f", config)
    listening(rig, "a", 8080)
    fetch(rig, f"http://{A4}:8080/file")
    for _ in range(20):
        check(ask(rig, "b", "curl", "-sS", f"http://{A4}:8080/file").text == TEXT, "again")
    is_carried(server, "listener")
    server.end()


def apache_event(rig):
    apache(rig, "event")


def apache_prefork(rig):
    apache(rig, "prefork")


NODE = """
const http = require('http');
http.createServer((q, r) => { r.end('hello ' + q.url); }).listen(8080, '0.0.0.0', () => console.log('ready'));
"""
NODE_CLIENT = """
const http = require('http');
let left = 200;
for (let i = 0; i < 200; i++)
  http.get('http://%s:8080/' + i, (r) => { let t = ''; r.on('data', (d) => t += d); r.on('end', () => {
    if (t !== 'hello /' + i) { console.log('bad', t); process.exit(1); }
    if (--left === 0) { console.log('all'); process.exit(0); } }); });
"""


def node(rig):
    if not needs("node"):
        return
    rig.usherd()
    server = under(rig, "node", "-e", NODE)
    server.says("ready")
    for host, usher in (("b", False), ("a", True)):
        answer = ask(rig, host, "node", "-e", NODE_CLIENT % A4, usher=usher)
        check("all" in answer.text, f"client on {host}: {answer.text} {answer.err}")
        check(not usher or carried(answer, "stream"), f"not carried: {answer.report[-5:]}")
    is_carried(server, "listener")


ASYNCIO = r"""
import asyncio
async def serve(r, w):
    while data := await r.read(65536):
        w.write(data)
        await w.drain()
    w.close()
async def main():
    s = await asyncio.start_server(serve, "0.0.0.0", 7000)
    print("ready", flush=True)
    await s.serve_forever()
asyncio.run(main())
"""
ASYNCIO_CLIENT = r"""
import asyncio, sys
async def one(n):
    r, w = await asyncio.open_connection(sys.argv[1], 7000)
    data = bytes([n % 256]) * 200_000
    w.write(data)
    w.write_eof()
    got = await r.read()
    assert got == data, len(got)
    w.close()
async def main():
    await asyncio.gather(*[one(n) for n in range(50)])
    print("all")
asyncio.run(main())
"""


def python_asyncio(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", ASYNCIO)
    server.says("ready")
    for host, usher in (("b", False), ("a", True)):
        answer = ask(rig, host, "python3", "-c", ASYNCIO_CLIENT, A4, usher=usher)
        check("all" in answer.text, f"client on {host}: {answer.text} {answer.err}")
        check(not usher or len(carried(answer, "stream")) == 50, f"not carried: {answer.report[-5:]}")
    is_carried(server, "listener")


SOCKETSERVER = r"""
import socketserver, threading
class Stream(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())
class Datagram(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read().upper())
socketserver.ThreadingTCPServer.allow_reuse_address = True
u = socketserver.ThreadingUDPServer(("0.0.0.0", 7002), Datagram)
threading.Thread(target=u.serve_forever, daemon=True).start()
t = socketserver.ThreadingTCPServer(("0.0.0.0", 7002), Stream)
print("ready", flush=True)
t.serve_forever()
"""
SOCKETSERVER_CLIENT = r"""
import socket, sys
for n in range(30):
    with socket.create_connection((sys.argv[1], 7002), 20) as s:
        f = s.makefile("rwb")
        for i in range(20):
            f.write(b"line %d\n" % i)
            f.flush()
            assert f.readline() == b"LINE %d\n" % i
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
    u.settimeout(20)
    for i in range(100):
        u.sendto(b"datagram %d" % i, (sys.argv[1], 7002))
        assert u.recv(100) == b"DATAGRAM %d" % i
print("all")
"""


def python_socketserver(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", SOCKETSERVER)
    server.says("ready")
    for host, usher in (("b", False), ("a", True)):
        answer = ask(rig, host, "python3", "-c", SOCKETSERVER_CLIENT, A4, usher=usher)
        check("all" in answer.text, f"client on {host}: {answer.text} {answer.err}")
        check(not usher or carried(answer, "stream") and carried(answer, "datagrams"), f"{answer.report[-5:]}")
    is_carried(server, "listener")
    is_carried(server, "datagrams")


def dnsmasq(rig):
    if not needs("dnsmasq"):
        return
    rig.usherd()
    server = under(rig, "dnsmasq", "-k", "--no-resolv", "--no-hosts", "--port=5353", "--address=/name.test/192.0.2.7",
                   "--user=root", "--pid-file", "--log-facility=-", "--bind-interfaces", "--interface=va")
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04name\x04test\x00\x00\x01\x00\x01"
    listening(rig, "a", 5353, "udp")
    for _ in range(20):
        answer = rig.asks("b", A4, 5353, query, 5)
        check(isinstance(answer, bytes) and answer.endswith(bytes([192, 0, 2, 7])), f"by UDP: {answer}")
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
    s.connect((A4, 5353))
    s.sendall(len(query).to_bytes(2, "big") + query)
    check(s.recv(1000).endswith(bytes([192, 0, 2, 7])), "by TCP")
    is_carried(server, "datagrams")
    server.end()


def iperf3(rig):
    if not needs("iperf3"):
        return
    rig.usherd()
    server = under(rig, "iperf3", "-s", "-p", 5201, "--forceflush")
    plain(rig, "b", "iperf3", "-s", "-p", 5202)
    listening(rig, "b", 5202)
    runs = 0
    for way in ([], ["-R"], ["-u", "-b", "50M"], ["-u", "-b", "50M", "-R"], ["-P", 4]):
        for host, usher in (("b", False), ("a", True)):
            # After each run the server makes its listener anew.
            runs += 1
            until("the server listens again", lambda n=runs: server.text().count("Server listening") == n)
            answer = ask(rig, host, "iperf3", "-c", A4, "-p", 5201, "-t", 1, *way, usher=usher)
            check("iperf Done" in answer.text, answer.text)
        answer = ask(rig, "a", "iperf3", "-c", B4, "-p", 5202, "-t", 1, *way, usher=True)
        check("iperf Done" in answer.text, answer.text)
        is_carried(answer, "datagrams" if "-u" in way else "stream")
    is_carried(server, "listener")
    is_carried(server, "datagrams")


def sockperf(rig):
    if not needs("sockperf"):
        return
    rig.usherd()
    feed = rig.path("feed", f"U:{A4}:12001\nU:{A4}:12002\nT:{A4}:12003\n")
    for way in ([], ["--tcp"], ["-f", feed, "-F", "e"], ["-f", feed, "-F", "p"], ["-f", feed, "-F", "s"]):
        many = "-f" in way
        server = under(rig, "sockperf", "sr", *([] if many else ["-i", "0.0.0.0", "-p", 12001]), *way)
        listening(rig, "a", 12001, "tcp" if "--tcp" in way else "udp")
        if many:
            listening(rig, "a", 12003)
        for host, usher in (("b", False), ("a", True)):
            answer = ask(rig, host, "sockperf", "pp", "-t", 1, "--full-rtt",
                         *([] if many else ["-i", A4, "-p", 12001]), *way, usher=usher, ok=None)
            check("Total" in answer.text and answer.code == 0, f"{way}: {answer.code}: {answer.text[-600:]}")
            if usher:
                is_carried(answer, "stream" if "--tcp" in way else "datagrams")
        is_carried(server, "listener" if "--tcp" in way else "datagrams")
        if many:
            is_carried(server, "listener")
        server.end(signal.SIGINT)


def postgres_server(rig, host):
    bins = "/usr/lib/postgresql/15/bin"
    if not os.path.isdir(bins):
        print("skipped: postgresql is not installed (tools/install-deps)", flush=True)
        return None, None
    user = pwd.getpwnam("postgres")
    become = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    data = f"{rig.dir}/pg-{host}"
    os.chmod(rig.dir, 0o755)
    os.makedirs(data)
    os.chown(data, user.pw_uid, user.pw_gid)
    run(["setpriv", *become, f"{bins}/initdb", "-D", data, "-A", "trust", "-N"])
    with open(f"{data}/pg_hba.conf", "a", encoding="utf-8") as f:
        f.write("host all all 10.99.0.0/24 trust\n")
    command = ["setpriv", *become, f"{bins}/postgres", "-D", data, "-c",
               f"listen_addresses={A4 if host == 'a' else B4}", "-c", f"unix_socket_directories={data}", "-c",
               "fsync=off"]
    server = under(rig, *command) if host == "a" else plain(rig, host, *command)
    server.says("ready to accept connections")
    return bins, server


def postgres(rig):
    """A server that forks for each connection: the children are handed the streams."""
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: \"0666\"}\n")
    bins, server = postgres_server(rig, "a")
    if not bins:
        return
    postgres_server(rig, "b")
    for host, address, usher in (("b", A4, False), ("a", A4, True), ("a", B4, True)):
        login = ["-h", address, "-U", "postgres"]
        ask(rig, host, f"{bins}/pgbench", "-i", "-q", "-s", 1, *login, "postgres", usher=usher)
        answer = ask(rig, host, f"{bins}/pgbench", "-c", 4, "-j", 2, "-t", 50, *login, "postgres", usher=usher)
        check("number of failed transactions: 0" in answer.text, answer.text)
        if address == B4:
            check(len(carried(answer, "stream")) >= 4, f"{answer.report}")
    is_carried(server, "listener")


def ssh_server(rig, host):
    os.chmod(rig.dir, 0o755)
    if not os.path.exists(f"{rig.dir}/host"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{rig.dir}/host"])
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{rig.dir}/user"])
        shutil.copy(f"{rig.dir}/user.pub", f"{rig.dir}/authorized")
    os.makedirs("/run/sshd", exist_ok=True)
    config = rig.path(f"sshd-{host}.conf", f"""
ListenAddress {A4 if host == "a" else B4}:2222
HostKey {rig.dir}/host
AuthorizedKeysFile {rig.dir}/authorized
StrictModes no
UsePAM no
PidFile {rig.dir}/sshd-{host}.pid
PermitRootLogin yes
Subsystem sftp internal-sftp
""")
    command = ["sshd", "-D", "-e", "-f", config]
    server = under(rig, *command) if host == "a" else plain(rig, host, *command)
    listening(rig, host, 2222)
    return server


def ssh_options(rig):
    return ["-F", "none", "-p", "2222", "-i", f"{rig.dir}/user", "-o", "StrictHostKeyChecking=no", "-o",
            f"UserKnownHostsFile={rig.dir}/known", "-o", "BatchMode=yes"]


def ssh(rig):
    """Each connection is read first by a child that gives up system calls and descriptors, then by its parent, and at
    last, by sftp, by a child of another user."""
    if not needs("sshd", "ssh", "ssh-keygen"):
        return
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: \"0666\"}\n")
    server = ssh_server(rig, "a")
    ssh_server(rig, "b")
    folder = served(rig)
    for n, (host, address, usher) in enumerate((("b", A4, False), ("a", A4, True), ("a", B4, True))):
        answer = ask(rig, host, "ssh", *ssh_options(rig), f"root@{address}", "echo hello; cat", data=TEXT.encode(),
                     usher=usher)
        check(answer.text == "hello\n" + TEXT, f"{len(answer.text)} characters: {answer.err}")
        if usher:
            is_carried(answer, "stream")
        batch = rig.path("batch", f"get {folder}/file {rig.dir}/got-{n}\n")
        answer = ask(rig, host, "sftp", *ssh_options(rig)[:2], "-P", *ssh_options(rig)[3:], "-b", batch,
                     f"nobody@{address}", usher=usher)
        with open(f"{rig.dir}/got-{n}", encoding="utf-8") as f:
            check(f.read() == TEXT, f"the file is the same: {answer.err}")
        if usher:
            is_carried(answer, "stream")
    is_carried(server, "listener")


def rsync(rig):
    if not needs("sshd", "ssh", "ssh-keygen", "rsync"):
        return
    rig.usherd()
    server = ssh_server(rig, "a")
    ssh_server(rig, "b")
    command = "ssh " + " ".join(ssh_options(rig))
    folder = served(rig)
    for n, (host, address, usher) in enumerate((("b", A4, False), ("a", A4, True), ("a", B4, True))):
        target = f"{rig.dir}/copy-{n}"
        answer = ask(rig, host, "rsync", "-a", "-e", command, f"{folder}/", f"root@{address}:{target}/", usher=usher)
        with open(f"{target}/file", encoding="utf-8") as f:
            check(f.read() == TEXT, "the copy is the same")
        if usher:
            is_carried(answer, "stream")
    is_carried(server, "listener")


if __name__ == "__main__":
    sys.exit(main([curl_wget, nc, redis, memcached, nginx, nginx_reloads_under_load,
                   nginx_becomes_another_binary, haproxy, lighttpd, apache_event,
                   apache_prefork, node, python_asyncio, python_socketserver, dnsmasq, iperf3, sockperf, postgres, ssh,
                   rsync]))
