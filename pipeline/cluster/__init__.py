"""A run over several hosts: launching, checking the hosts first, watching them, going on after one is lost. Knows no model."""
