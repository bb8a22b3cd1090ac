from pipeline.benchmark.step import main

if __name__ == "__main__":
    main()
