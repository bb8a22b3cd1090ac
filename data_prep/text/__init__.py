"""From bytes to lines: files, archives and records of any form, read to the last byte in bounded memory."""
