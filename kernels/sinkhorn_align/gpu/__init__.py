"""The backend of a GPU, Triton: which launches a batch takes, and the kernels that they run."""
