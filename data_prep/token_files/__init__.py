"""The format, which is all that training imports: token files, block tables, markers, the manifest."""
