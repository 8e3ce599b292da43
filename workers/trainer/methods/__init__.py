"""The methods of training: each file has one function, `train(job) -> Outcome`."""
