"""What a run takes, before it is paid for: memory, operations, days, hosts."""
