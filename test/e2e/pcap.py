# SPDX-License-Identifier: Apache-2.0
"""Reads capture files: pcapng as usherd writes it, and the pcap of tcpdump. Only what the tests ask about."""
import struct


class Packet:
    def __init__(self, data, interface="", out=False, comment="", words=""):
        self.data, self.interface, self.out, self.comment = data, interface, out, comment
        self.words = dict(w.split("=", 1) for w in words.split(" ") if "=" in w)

    def wire(self):
        """The bytes, without transport checksums: which of them are whole depends on where somebody looks."""
        b = bytearray(self.data)
        if b[12:14] == b"\x08\x00":
            at, proto = 14 + (b[14] & 15) * 4, b[23]
        elif b[12:14] == b"\x86\xdd":
            at, proto = 54, b[20]
        else:
            return bytes(b)
        field = {6: 16, 17: 6}.get(proto)
        if field and len(b) >= at + field + 2:
            b[at + field:at + field + 2] = b"\0\0"
        return bytes(b)


def options(b):
    found = {}
    at = 0
    while at + 4 <= len(b):
        code, n = struct.unpack_from("=HH", b, at)
        if code == 0:
            break
        found[code] = b[at + 4:at + 4 + n]
        at += 4 + (n + 3) // 4 * 4
    return found


def read_pcapng(path):
    with open(path, "rb") as f:
        b = f.read()
    packets, names, at = [], [], 0
    while at + 12 <= len(b):
        kind, size = struct.unpack_from("=II", b, at)
        if size < 12 or at + size > len(b):
            break  # the last block is still being written
        body = b[at + 8:at + size - 4]
        if kind == 0x0a0d0d0a:
            names = []
        elif kind == 1:
            names.append(options(body[8:]).get(2, b"").decode())
        elif kind == 6:
            face, _, _, captured, _ = struct.unpack_from("=IIIII", body)
            o = options(body[20 + (captured + 3) // 4 * 4:])
            packets.append(Packet(body[20:20 + captured], names[face], o.get(2, b"\0")[0] & 3 == 2,
                                  o.get(1, b"").decode(), o.get(2988, b"\0\0\0\0")[4:].decode()))
        at += size
    return packets


def read_pcap(path):
    with open(path, "rb") as f:
        b = f.read()
    packets, at = [], 24
    while at + 16 <= len(b):
        captured = struct.unpack_from("=IIII", b, at)[2]
        packets.append(Packet(b[at + 16:at + 16 + captured]))
        at += 16 + captured
    return packets
