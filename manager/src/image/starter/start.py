"""The first process of a function's container: runs the function, and says when it is up.

    start.py [--port PORT [--set-up ROUTE]] -- FILE ARGUMENTS...
    start.py --probe [STATE [PROCESS]]

Runs FILE with the same Python, hands signals on to it, collects orphans, and ends as it ends. With --port it waits until
the function listens there, asks the set-up route once, and then leaves a mark that --probe, the container's startup
probe, looks for. Why it ended a function itself stands in the termination log, as `octopus/<reason>: <text>`.
"""

import os
import sys

STATE = "/tmp/.octopus"


def started_at(process):
    """When a process started: tells the first process of this container from that of the one before it."""
    with open(f"/proc/{process}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[19]


def probe(folder=STATE, process=1):
    try:
        with open(f"{folder}/state") as file:
            run, _, state = file.read().partition(" ")
    except OSError:
        run, state = None, None
    if run != started_at(process):
        state = "the function has not been started yet"
    if state == "up":
        return 0
    print(state)
    return 1


# Asked each second: it must not wait for what only the starter needs.
if __name__ == "__main__" and sys.argv[1:2] == ["--probe"]:
    sys.exit(probe(*sys.argv[2:]))

import argparse
import ctypes
import http.client
import pathlib
import signal
import socket
import threading

HANDED_ON = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
SET_UP_FAILED = 70
# Between two tries to connect, in seconds.
PAUSE = 0.05
# How long a function whose set-up failed may take to end, in seconds.
GRACE = 5
# How long after its last connection broke a function that is ending has ended, in seconds.
MOMENT = 1
# Kept of an answer, in bytes.
SHOWN = 500
COUNTERS = ["/sys/fs/cgroup/pids/pids.events", "/sys/fs/cgroup/pids.events"]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--set-up")
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path(STATE))
    parser.add_argument("--termination-log", type=pathlib.Path, default=pathlib.Path("/dev/termination-log"))
    parser.add_argument("function", nargs="+")
    return parser.parse_args()


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def write(path, text):
    """In one step: a reader sees the old or the new one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def terminated(options, reason, text):
    try:
        with options.termination_log.open("w") as log:
            log.write(f"octopus/{reason}: {' '.join(text.split())[:1000]}")
    except OSError as error:
        say(f"the termination log cannot be written: {error}")


def say(text):
    try:
        print(f"octopus: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass


def refused_processes():
    """How often the kernel has refused this container a process."""
    for path in COUNTERS:
        for line in read(pathlib.Path(path)).splitlines():
            name, _, count = line.partition(" ")
            if name == "max":
                return int(count)
    return 0


class Starter:
    def __init__(self, options):
        self.options = options
        self.child = None
        self.failed = False
        self.told_to_end = False
        self.ended = threading.Event()

    def mark(self, state):
        try:
            self.options.state.mkdir(parents=True, exist_ok=True)
            write(self.options.state / "state", f"{started_at(os.getpid())} {state}")
        except OSError as error:
            # A full disk for one. The probe goes on to say what it saw last.
            say(f"the state cannot be written: {error}")

    def run(self):
        before = refused_processes()
        self.mark(f"the function does not listen on port {self.options.port} yet")
        # Blocked until there is somebody to hand them on to: none is lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
        self.child = os.fork()
        if self.child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
            os.execv(sys.executable, [sys.executable, "-u", *self.options.function])
        for number in HANDED_ON:
            signal.signal(number, self.hand_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
        if self.options.port:
            threading.Thread(target=self.bring_up, daemon=True).start()
        code = self.wait()
        self.ended.set()
        refused = refused_processes() - before
        if self.failed:
            return SET_UP_FAILED
        if code != 0 and refused > 0:
            terminated(self.options, "process_limit", f"the container was refused a new process {refused} times")
        return code

    def hand_on(self, number, _):
        self.told_to_end |= number in (signal.SIGTERM, signal.SIGINT)
        os.kill(self.child, number)

    def wait(self):
        """Until the function ends. Whatever it left behind becomes a child of the first process and is collected too."""
        while True:
            process, status = os.wait()
            if process == self.child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code

    def bring_up(self):
        while not self.listens():
            if self.ended.wait(PAUSE):
                return
        if self.options.set_up:
            self.mark(f"the set-up route {self.options.set_up} has not answered yet")
            problem = self.set_up()
            # Whoever ends does not owe an answer.
            if self.ended.is_set() or self.told_to_end:
                return
            if problem:
                self.give_up(problem)
                return
        self.mark("up")

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.options.port), timeout=1).close()
            return True
        except OSError:
            return False

    def set_up(self):
        """Asks once. It may take as long as the startup probe lets it: it may fetch models."""
        route = self.options.set_up
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.options.port)
            connection.request("POST", route, body=b"{}", headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read(SHOWN).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self.ended.wait(MOMENT)
            return f"POST {route} was not answered: {error!r}"
        if 200 <= answer.status < 300:
            say(f"POST {route} answered {answer.status}")
            return None
        return f"POST {route} answered {answer.status}: {body}"

    def give_up(self, problem):
        self.failed = True
        say(problem)
        terminated(self.options, "set_up_failed", problem)
        os.kill(self.child, signal.SIGTERM)
        if not self.ended.wait(GRACE):
            os.kill(self.child, signal.SIGKILL)


def adopt_orphans():
    """The first process of a container does so anyway. With a shared process namespace it is not the first."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


if __name__ == "__main__":
    options = arguments()
    if os.getpid() != 1:
        adopt_orphans()
    # Not sys.exit: nothing may wait for the thread that asks.
    code = Starter(options).run()
    os._exit(code)
