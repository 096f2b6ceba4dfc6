"""Python imports this when it starts: its time is one that the test sets forward, a candle at a time.

Waiting takes as long as ever.
"""

import mmap
import os
import struct
import time

import time_machine

# The first nanosecond since 1970 and the monotonic clock's at the same moment; the file that says how far it is set on.
first_ns, true_first_ns = (int(number) for number in os.environ["FAULTS_CLOCK"].split())
with open(os.environ["FAULTS_CLOCK_SET_ON"], "rb") as file:
    set_on = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)


def time_ns() -> int:
    """Nanoseconds since 1970."""
    return first_ns + time.monotonic_ns() - true_first_ns + struct.unpack("q", set_on[:8])[0]


# The traveller is asked by every function that tells the time, those of C included.
time_machine.travel(first_ns // 10**9).start().time_ns = time_ns
