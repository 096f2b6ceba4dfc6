"""Python imports this when it starts: every process of the dry run gets one clock, and it runs fast.

Threads, event loops and network timeouts count by the monotonic clock, which stays true. Not
libfaketime: under its version 0.9.10 two busy threads of Python take ten times as long as without.
"""

import os
import time

import time_machine

# Speed, the fast clock's first nanosecond since 1970, and the monotonic clock's at the same moment.
speed, first_ns, true_first_ns = (int(number) for number in os.environ["FAST_CLOCK"].split())
true_sleep = time.sleep


def fast_time_ns() -> int:
    """Nanoseconds since 1970."""
    return first_ns + speed * (time.monotonic_ns() - true_first_ns)


def fast_sleep(seconds: float) -> None:
    """Sleep for seconds of the fast clock."""
    true_sleep(seconds / speed)


# The traveller is asked by every function that tells the time, those of C included.
time_machine.travel(first_ns // 10**9).start().time_ns = fast_time_ns
time.sleep = fast_sleep
