import os
import sys
import time

steps = iter(sys.argv[1:])
for step in steps:
    value = next(steps)
    if step == "print":
        for number in range(int(value)):
            print(f"line {number}")
    elif step == "fill":
        for number in range(int(value)):
            print(f"{number:08d} " + "x" * 990)
    elif step == "say":
        print(value)
    elif step == "sleep":
        time.sleep(float(value))
    elif step == "signal":
        os.kill(os.getpid(), int(value))
    elif step == "exit":
        sys.exit(int(value))
    elif step == "look":
        status = open("/proc/self/status").read()
        print("uid", os.getuid())
        print("capabilities", [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")][0])
        print("token", os.path.exists("/var/run/secrets/kubernetes.io"))
        print("service links", any(name.endswith("_SERVICE_HOST") and "KUBERNETES" not in name for name in os.environ))
        try:
            open("/here", "w")
            print("root writable")
        except OSError:
            print("root read-only")
        open("/tmp/here", "w").write("x")
        print("scratch writable")
