"""How a process's threads wait for each other, said to torch's threads library (libgomp) through the environment before torch loads.

Threads that only spin make a step ten times slower as soon as other programs want the cores; threads that always sleep make it a tenth
slower where nobody does, for the kernels of a step are short and waking costs as much as many of them. So they spin for as long as the
next kernel usually takes to come, about 50 us, and sleep then.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SPINS = 2000  # turns of libgomp's loop, 20 to 50 ns each; two runs on the same two cores lose 5 % by it, by 10,000 turns 35 %


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Set what the user has not: who chose a policy or a count of spins keeps it."""
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # of libraries other than libgomp
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS))
