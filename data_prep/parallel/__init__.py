"""Work on many processors: processes of one host, ranks of an MPI job."""
