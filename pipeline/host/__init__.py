"""One host: its processes, ports, signals, locks and room on disks. The standard library alone."""
