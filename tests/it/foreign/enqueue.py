"""Rings as a frontend in Python does, with nothing but the standard library: RESP over a socket.

Environment: REDIS_URL, PREFIX, BROADCAST_ID, RUN_AT, TRACEPARENT, WRONG (a text that breaks the contract).
"""

import json
import os
import socket
import sys
from datetime import datetime
from urllib.parse import unquote, urlsplit

env = os.environ
url = urlsplit(env["REDIS_URL"])
commands = []
if url.password:
    commands.append(["AUTH", unquote(url.username or "default"), unquote(url.password)])
if len(url.path) > 1:
    commands.append(["SELECT", url.path[1:]])

job = {
    "id": "python:1",
    "args": {"broadcast_id": env["BROADCAST_ID"]},
    "run_at": datetime.fromisoformat(env["RUN_AT"]).isoformat(),
    "max_attempts": 3.0,
    "unique": "廣播 " + env["BROADCAST_ID"],
    "traceparent": env["TRACEPARENT"],
}
ready = "{%s}:ready:broadcast-send" % env["PREFIX"]
commands.append(["RPUSH", ready, json.dumps(job), env["WRONG"]])
commands.append(["PUBLISH", "{%s}:wake" % env["PREFIX"], "broadcast-send"])


def encode(parts):
    encoded = [part.encode() for part in parts]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded)


with socket.create_connection((url.hostname, url.port or 6379), timeout=10) as connection:
    connection.sendall(b"".join(map(encode, commands)))
    # Every command above is answered by one line.
    for command, line in zip(commands, connection.makefile("rb")):
        if line.startswith(b"-"):
            sys.exit(command[0] + ": " + line.decode())
