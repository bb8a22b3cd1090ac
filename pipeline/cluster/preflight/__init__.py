"""Is a set of hosts fit for a run? One module a kind of check."""
