"""What a process does to its pools: it forks, is interrupted, runs out of descriptors, hosts."""
