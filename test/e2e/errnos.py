#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each call with each bad argument, on the kernel's sockets and on Usher's: the same result and errno."""
import sys

from posix_rig import ask, is_carried
from rig import A4, B4, check, main
from streams import kernel_stream_echo

# Makes sockets in every state and calls what takes an fd; prints one line for each call. argv: our address, the peer's.
CALLS = r"""
import ctypes, errno, os, select, socket, struct, sys, time
L = ctypes.CDLL(None, use_errno=True)
BAD = ctypes.c_void_p(8)
NULL = None
me, peer = sys.argv[1:3]
buf = ctypes.create_string_buffer(65536)
length = ctypes.c_uint32(16)
def addr(host, port, family=socket.AF_INET):
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
class Iov(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
class Msg(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("iov", ctypes.c_void_p),
                ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_int)]
def msg(base=None, size=4, n=1, name=None, namelen=0):
    iov = Iov(base if base is not None else ctypes.addressof(buf), size)
    m = Msg(name, namelen, ctypes.addressof(iov), n, None, 0, 0)
    m.keep = iov
    return m
def bad_iov():
    return Msg(None, 0, 8, 1, None, 0, 0)
def say(state, text, name, *args):
    ctypes.set_errno(0)
    length.value = 16
    r = getattr(L, name)(*args)
    e = ctypes.get_errno() if r == -1 else 0
    print(f"{state}: {name}({text}) = {r if r < 1 or name not in ('accept', 'dup', 'socket') else 'fd'} "
          f"{errno.errorcode.get(e, e) if e else ''}")
D = socket.MSG_DONTWAIT
N = socket.MSG_NOSIGNAL
def reading(state, fd):
    say(state, "empty, DONTWAIT", "recv", fd, buf, 10, D)
    say(state, "bad buffer", "recv", fd, BAD, 10, D)
    say(state, "OOB", "recv", fd, buf, 10, D | socket.MSG_OOB)
    say(state, "ERRQUEUE", "recv", fd, buf, 10, D | 0x2000)
    say(state, "nothing wanted", "recv", fd, buf, 0, D)
    say(state, "bad msg", "recvmsg", fd, BAD, D)
    say(state, "bad iov", "recvmsg", fd, ctypes.byref(bad_iov()), D)
    say(state, "iov of 1025", "recvmsg", fd, ctypes.byref(msg(n=1025)), D)
    say(state, "n -1", "readv", fd, buf, -1)
    say(state, "n 1025", "readv", fd, buf, 1025)
def writing(state, fd):
    say(state, "bad buffer", "send", fd, BAD, 10, D | N)
    say(state, "bad msg", "sendmsg", fd, BAD, D | N)
    say(state, "bad iov", "sendmsg", fd, ctypes.byref(bad_iov()), D | N)
    say(state, "n -1", "writev", fd, buf, -1)
    say(state, "n 1025", "writev", fd, buf, 1025)
    say(state, "iov of 1025", "sendmsg", fd, ctypes.byref(msg(n=1025)), D | N)
    say(state, "negative length", "sendmsg", fd, ctypes.byref(msg(size=-1 & (1 << 64) - 1)), D | N)
def names(state, fd):
    for call in ("getsockname", "getpeername"):
        say(state, "bad addr", call, fd, BAD, ctypes.byref(length))
        say(state, "bad len", call, fd, buf, BAD)
        say(state, "null len", call, fd, buf, NULL)
        length.value = 16
        say(state, "fine", call, fd, buf, ctypes.byref(length))
def options(state, fd):
    one = ctypes.c_int(1)
    for level, name in ((1, 9), (6, 1), (1, 999), (6, 999), (999, 1), (0, 1), (0, 2)):
        say(state, f"{level} {name} fine", "setsockopt", fd, level, name, ctypes.byref(one), 4)
        say(state, f"{level} {name} short", "setsockopt", fd, level, name, ctypes.byref(one), 2)
        say(state, f"{level} {name} bad", "setsockopt", fd, level, name, BAD, 4)
        length.value = 4
        say(state, f"{level} {name} fine", "getsockopt", fd, level, name, buf, ctypes.byref(length))
        length.value = 4
        say(state, f"{level} {name} bad", "getsockopt", fd, level, name, BAD, ctypes.byref(length))
        say(state, f"{level} {name} bad len", "getsockopt", fd, level, name, buf, BAD)
    for name in (20, 21):
        say(state, f"time {name}", "setsockopt", fd, 1, name, struct.pack("qq", 0, 2000000), 16)
        say(state, f"time {name} short", "setsockopt", fd, 1, name, struct.pack("qq", 0, 0), 8)
    length.value = 4
    say(state, "SO_ERROR", "getsockopt", fd, 1, 4, buf, ctypes.byref(length))
    say(state, "SO_ERROR bad", "getsockopt", fd, 1, 4, BAD, ctypes.byref(length))
    for request in (0x541b, 0x5411, 0x8905, 0x1234):
        say(state, f"{request:x} bad", "ioctl", fd, request, BAD)
    say(state, "FIONBIO bad", "ioctl", fd, 0x5421, BAD)
def waiting(state, fd):
    class P(ctypes.Structure):
        _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]
    p = P(fd, select.POLLIN | select.POLLOUT | select.POLLPRI | 0x2000, 0)
    say(state, "", "poll", ctypes.byref(p), 1, 0)
    print(f"{state}: revents {p.revents:x}")
    say(state, "bad fds", "poll", BAD, 1, 0)
    ep = L.epoll_create1(0)
    event = struct.pack("=IQ", 1, 7)
    for call in ((1, fd, event), (1, fd, event), (3, fd, BAD), (3, fd, event), (2, fd, NULL), (2, fd, NULL),
                 (9, fd, event), (1, fd, BAD), (3, fd, event)):
        say(state, f"op {call[0]}{' bad' if call[2] is BAD else ''}", "epoll_ctl", ep, *call)
    say(state, "no epoll", "epoll_ctl", fd, 1, fd, event)
    say(state, "ep 999", "epoll_ctl", 999, 1, fd, event)
    L.epoll_ctl(ep, 1, fd, struct.pack("=IQ", 4, 7))
    say(state, "n 0", "epoll_wait", ep, buf, 0, 0)
    say(state, "n -1", "epoll_wait", ep, buf, -1, 0)
    say(state, "fine", "epoll_wait", ep, buf, 4, 0)
    say(state, "bad", "epoll_wait", ep, BAD, 4, 0)
    L.close(ep)
def setup(state, fd):
    say(state, "again", "bind", fd, addr(me, 0), 16)
    say(state, "bad", "bind", fd, BAD, 16)
    say(state, "short", "bind", fd, addr(me, 0), 3)
    say(state, "bad flags", "accept4", fd, NULL, NULL, 0x1234)
    say(state, "bad", "connect", fd, BAD, 16)
    say(state, "short", "connect", fd, addr(peer, 9000), 5)
    say(state, "long", "connect", fd, addr(peer, 9000), 999)
    say(state, "how 7", "shutdown", fd, 7)
def everything(state, fd):
    reading(state, fd)
    writing(state, fd)
    names(state, fd)
    options(state, fd)
    waiting(state, fd)
    setup(state, fd)
s = socket.socket()
everything("fresh stream", s.fileno())
s = socket.socket()
s.connect((peer, 9000))
everything("connected", s.fileno())
say("connected", "again", "connect", s.fileno(), addr(peer, 9000), 16)
say("connected", "", "listen", s.fileno(), 5)
say("connected", "", "accept", s.fileno(), NULL, NULL)
say("connected", "OOB is sent", "send", s.fileno(), b"u", 1, socket.MSG_OOB)
say("connected", "WR", "shutdown", s.fileno(), 1)
say("shut", "after", "send", s.fileno(), b"x", 1, N)
time.sleep(0.2)
say("shut", "RD", "shutdown", s.fileno(), 0)
l = socket.socket()
l.bind((me, 0))
l.listen(5)
l.setblocking(False)
ep = select.epoll()
ep.register(l, select.EPOLLIN)
everything("listener", l.fileno())
say("listener", "", "connect", l.fileno(), addr(peer, 9000), 16)
say("listener", "nobody", "accept", l.fileno(), NULL, NULL)
say("listener", "bad addr", "accept", l.fileno(), BAD, BAD)
say("listener", "to", "sendto", l.fileno(), b"x", 1, N, addr(peer, 9000), 16)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
everything("fresh datagrams", u.fileno())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind((me, 0))
u.sendto(b"x", (peer, 9001))
time.sleep(0.2)
everything("datagrams", u.fileno())
say("datagrams", "", "listen", u.fileno(), 5)
say("datagrams", "", "accept", u.fileno(), NULL, NULL)
say("datagrams", "no peer", "send", u.fileno(), b"x", 1, 0)
say("datagrams", "too long", "sendto", u.fileno(), buf, 65536, 0, addr(peer, 9001), 16)
say("datagrams", "port 0", "sendto", u.fileno(), b"x", 1, 0, addr(peer, 0), 16)
say("datagrams", "family", "sendto", u.fileno(), b"x", 1, 0, addr(peer, 9001, 77), 16)
say("datagrams", "short", "sendto", u.fileno(), b"x", 1, 0, addr(peer, 9001), 5)
say("datagrams", "bad to", "sendto", u.fileno(), b"x", 1, 0, BAD, 16)
u.connect((peer, 9001))
everything("connected datagrams", u.fileno())
for n in (-1, 999):
    everything(f"fd {n}", n)
for refused in (False, True):
    r = socket.socket()
    r.setblocking(not refused)
    say("refused", "", "connect", r.fileno(), addr(peer, 9009), 16)
    time.sleep(0.3)
    say("refused", "first", "send", r.fileno(), b"x", 1, N)
    say("refused", "then", "send", r.fileno(), b"x", 1, N)
    say("refused", "", "recv", r.fileno(), buf, 1, 0)
    names("refused", r.fileno())
"""



def same_results(rig):
    rig.usherd()
    kernel_stream_echo(rig, "b", 9000)
    rig.kernel_echo("b", 9001)
    script = rig.path("calls.py", CALLS)
    kernel = ask(rig, "a", "python3", script, A4, B4).text.splitlines()
    usher = ask(rig, "a", "python3", script, A4, B4, usher=True)
    for kind in ("stream", "listener", "datagrams"):
        is_carried(usher, kind)
    ours = usher.text.splitlines()
    check(len(kernel) > 600 and len(kernel) == len(ours), f"{len(kernel)} and {len(ours)} calls")
    wrong = [f"{k}   but on Usher: {u}" for k, u in zip(kernel, ours) if k != u]
    check(not wrong, f"{len(wrong)} of {len(kernel)}:\n" + "\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main([same_results]))
