"""Signals in a real process."""

import signal
import subprocess
import sys
import time


def test_a_second_signal_stops_at_once() -> None:
    script = (
        "import signal, time\nfrom hcnn.runs.interrupts import StopRequest\n"
        "with StopRequest():\n    print('ready', flush=True)\n    end = time.time() + 300\n"
        "    while time.time() < end: time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    process.stdout.close()
