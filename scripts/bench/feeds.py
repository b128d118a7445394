"""The clients of feeds.sh: a reader of server-sent events, subscribers over WebSocket, and paced writers.

    feeds.py cold URL EVENTS            reads so many events from the oldest on
    feeds.py latency URL OTHER WRITES RATE   time from the leader's stamp of a write to its subscriber
    feeds.py idle URL COUNT PID         what so many idle subscribers cost the node with this process id
"""

import base64
import datetime
import http.client
import json
import multiprocessing
import os
import resource
import socket
import struct
import sys
import time
import urllib.parse
import urllib.request


class Subscriber:
    """One WebSocket of /changes/ws, as far as a feed needs it."""

    def __init__(self, url, wanted):
        place = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port))
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {place.path}/v1/changes/ws HTTP/1.1", f"host: {place.netloc}", "connection: upgrade", "upgrade: websocket",
            "sec-websocket-version: 13", f"sec-websocket-key: {key}", "", "",
        ]
        self.socket.sendall("\r\n".join(head).encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        answer, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if not answer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(answer.decode())
        self.send(0x81, json.dumps(wanted).encode())

    def fill(self):
        got = self.socket.recv(65536)
        if not got:
            raise SystemExit("the node hung up")
        self.buffer += got

    def take(self, count):
        while len(self.buffer) < count:
            self.fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def send(self, first, payload):
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        # A mask of zeros is a mask.
        self.socket.sendall(bytes([first]) + length + b"\0\0\0\0" + payload)

    def hear(self):
        while True:
            first, size = self.take(2)
            if size == 126:
                (size,) = struct.unpack(">H", self.take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.take(8))
            payload = self.take(size)
            if first == 0x89:
                self.send(0x8A, payload)
            elif first == 0x81:
                return payload
            else:
                raise SystemExit(f"the node ended it: {payload}")


def cold(url, events):
    began, seen = time.monotonic(), 0
    with urllib.request.urlopen(url + "/v1/changes?bucket=Demo&from=oldest") as feed:
        for line in feed:
            seen += line == b"event: change\n"
            if seen >= events:
                break
    return {"events": seen, "eventsPerSecond": round(seen / (time.monotonic() - began))}


def write(url, first, count, rate):
    place = urllib.parse.urlsplit(url)
    client = http.client.HTTPConnection(place.netloc)
    began = time.monotonic()
    for n in range(count):
        # A plan that is kept also after a slow write.
        time.sleep(max(0, began + n / rate - time.monotonic()))
        client.request("PUT", f"/v1/db/Demo/latency{first + n}", b'{"n":1}', {"content-type": "application/json"})
        client.getresponse().read()


def latency(url, other, writes, rate):
    writers = 10
    subscriber = Subscriber(url, {"bucket": "Demo"})
    subscriber.hear()
    each = writes // writers
    plans = [(other, at * each, each, rate / writers) for at in range(writers)]
    at_work = [multiprocessing.Process(target=write, args=plan) for plan in plans]
    for writer in at_work:
        writer.start()
    took = []
    while len(took) < each * writers:
        told = subscriber.hear()
        now = time.time()
        if told.startswith(b'{"type":"change"'):
            stamp = datetime.datetime.fromisoformat(json.loads(told)["time"].replace("Z", "+00:00"))
            took.append(now - stamp.timestamp())
    for writer in at_work:
        writer.join()
    took.sort()
    at = lambda part: round(took[min(len(took) - 1, int(len(took) * part))] * 1000, 2)
    return {"writes": len(took), "writesPerSecond": rate, "p50Ms": at(0.5), "p99Ms": at(0.99)}


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def idle(url, count, pid):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # What a first subscriber costs the node is no cost of each.
    first = Subscriber(url, {"bucket": "Demo"})
    first.hear()
    time.sleep(3)
    before = resident(pid)
    subscribers = [Subscriber(url, {"bucket": "Demo"}) for _ in range(count)]
    for subscriber in subscribers:
        subscriber.hear()
    time.sleep(5)
    after, spent = resident(pid), ticks(pid)
    time.sleep(5)
    share = (ticks(pid) - spent) / os.sysconf("SC_CLK_TCK") / 5
    return {"subscribers": count, "bytesPerSubscriber": max(0, after - before) // count, "cpuShare": round(share, 3)}


PARTS = {"cold": cold, "latency": latency, "idle": idle}
if __name__ == "__main__":
    arguments = [int(text) if text.isdigit() else text for text in sys.argv[2:]]
    print(json.dumps(PARTS[sys.argv[1]](*arguments)))
