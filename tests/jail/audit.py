"""Counts the records of Landlock's denials that commands leave in the kernel's audit log.

Arguments: a file of calls for the probe, then two command lines separated by `//`. Each gets the file as
stdin; for each one line is printed with the number of its records. 3: the log cannot be had here.
"""

import socket
import struct
import subprocess
import sys

NETLINK_AUDIT, READLOG = 9, 1
AUDIT_GET, AUDIT_SET, LANDLOCK_ACCESS = 1000, 1001, 1423
HEADER = "IHHII"


def connect(group):
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT)
    connection.bind((0, group))
    connection.settimeout(1)
    return connection


def ask(control, kind, data=b""):
    control.send(struct.pack(HEADER, 16 + len(data), kind, 5, 1, 0) + data)
    while True:
        answer = control.recv(8192)
        if struct.unpack_from(HEADER, answer)[1] in (2, AUDIT_GET) and (kind == AUDIT_SET or len(answer) > 36):
            return answer


def enabled(control):
    return struct.unpack_from("10I", ask(control, AUDIT_GET), 16)[1]


def enable(control, value):
    error = struct.unpack_from("i", ask(control, AUDIT_SET, struct.pack("10I", 1, value, *[0] * 8)), 16)[0]
    if error:
        sys.exit(3)


def records(log, command, calls):
    with open(calls, "rb") as stdin:
        subprocess.run(command, stdin=stdin, stdout=subprocess.DEVNULL, check=True)
    count = 0
    try:
        while True:
            count += struct.unpack_from(HEADER, log.recv(8192))[1] == LANDLOCK_ACCESS
    except socket.timeout:
        return count


def main():
    calls, rest = sys.argv[1], sys.argv[2:]
    at = rest.index("//")
    try:
        log, control = connect(READLOG), connect(0)
        before = enabled(control)
    except OSError:
        sys.exit(3)
    enable(control, 1)
    try:
        for command in (rest[:at], rest[at + 1 :]):
            print(records(log, command, calls), flush=True)
    finally:
        enable(control, before)


main()
