"""What can be fine-tuned: one module a kind of task, behind the interface of `task`."""
