"""How fast the pool is: beside pools of others, beside no pool at all, and beside its goals.

Run it with ``nox -s bench``, or with ``python -m benchmarks`` from the root of the repository where
the package and the contestants are installed; ``--help`` lists the options. What is not installed
is left out.

**How it measures.** Every backend has a process of its own, and all servers are one other process.
All are kept on one processor. The contestants of a case take turns of some milliseconds, in many
rounds, and in an order that is shuffled for each round; the garbage collector rests during a turn,
as with ``timeit``. A machine that is slow for a while is then slow for all of them. Exchanges,
which wait for the server, are measured in real time; what a process does by itself is measured in
processor time, so that it doesn't count what other programs do meanwhile.

**How to read the table.** The first line of a case is ours. Each line has the median time of one
operation, and the quartiles. ``ours/it`` is the ratio of our time to that contestant's, formed
within each round: its median, and its quartiles. Below 1 we are faster. Some lines have a goal for
that ratio, or, where there is nothing to compare with, for the figure itself. A verdict with a
question mark is in doubt: the goal lies between the quartiles, and another run may say otherwise.
Compare ratios, not times: times are those of one machine on one day.

**How it is made.** ``rounds`` measures, ``cases`` says what, ``goals`` how fast that should be,
``borrowers`` and ``peers`` are those who acquire and release, ``worker`` runs the cases of one
backend, ``server`` is the other end, and ``table``, ``markdown`` and ``plot`` show what came out.
"""
