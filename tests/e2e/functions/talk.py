"""Prints much, slowly or oddly: `flood LINES BYTES_A_SECOND [AFTER_SECONDS]` (0: as fast as it can), `tick LINES LINES_A_SECOND`,
or `odd`.
"""

import os
import sys
import time

ODD = [
    b"",
    b"",
    b"identical",
    b"identical",
    b"NUL \0 in the middle",
    b"\xff\xfe\xc3( no UTF-8",
    b"\x1b[31mred\x1b[0m",
    b"10%\r20%\r100%",
    b"2026-01-02T03:04:05.000000006Z looks like a node's",
    b"16384 " + b"x" * (16384 - 6),
    b"16385 " + b"x" * (16385 - 6),
    b"100K " + b"0123456789abcdef" * (100 * 64),
    b"10M " + b"0123456789abcdef" * (10 << 16),
    b"after the long one",
    b"\ttab and trailing space ",
]


def write(data):
    while data:
        data = data[os.write(1, data) :]


def flood(lines, rate, after=0):
    time.sleep(float(after))
    lines, rate = int(lines), int(rate)
    filler = b"x" * 190
    begins, printed, batch = time.monotonic(), 0, []
    for number in range(lines):
        batch.append(b"%08d %s\n" % (number, filler))
        if len(batch) == 50 or number == lines - 1:
            data = b"".join(batch)
            batch.clear()
            write(data)
            printed += len(data)
            if rate:
                time.sleep(max(0, begins + printed / rate - time.monotonic()))


def tick(lines, rate):
    for number in range(int(lines)):
        write(b"line %d\n" % number)
        time.sleep(1 / float(rate))


def odd():
    for line in ODD:
        write(line + b"\n")
    # More than a pipe holds, in small pieces, and an end without a newline.
    for number in range(2000):
        write(b"%d " % number)
    write(b"\nno newline")


{"flood": flood, "tick": tick, "odd": odd}[sys.argv[1]](*sys.argv[2:])
