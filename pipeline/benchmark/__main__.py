from __future__ import annotations

from pipeline.benchmark.step import main

if __name__ == "__main__":
    main()
