"""The testing kit: the remote in memory, virtual clocks, and the assertion for a test's end."""
